"""Mistakes that the person at the keyboard can mend, and the end that a scheduler asks for."""

import signal


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


class DivergedError(ClmrError):
    """Training came to a loss or to weights that are not finite."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers send before they kill: answered as Ctrl-C is."""


def status_of(interrupt: KeyboardInterrupt) -> int:
    """The exit status after Ctrl-C or SIGTERM, as shells have it: 128 and the signal's number."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)
