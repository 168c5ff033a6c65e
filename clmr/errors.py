"""Mistakes that the person at the keyboard can mend."""


class ClmrError(Exception):
    """Base of every error that a user can cause.

    Its message says what came, what was expected and what to do. The commands print it without a
    traceback and exit with status 1; any other exception is a bug and keeps its traceback.
    """


class ConfigError(ClmrError, ValueError):
    """A setting is unknown, of a wrong type, out of range, or contradicts another one."""


class AudioError(ClmrError, ValueError):
    """A file cannot be decoded to usable audio."""


class StoreError(ClmrError):
    """A PCM store is missing, unfinished, damaged or of another kind than asked for."""


class DatasetError(ClmrError):
    """A dataset is not on disk in the layout that was expected."""


class CheckpointError(ClmrError):
    """A checkpoint is not one, or belongs to another network."""
