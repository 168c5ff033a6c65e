"""The command line of `python -m clmr <command>`: arguments of its own, and every setting."""

from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from collections.abc import Collection
from dataclasses import fields
from typing import Any, NoReturn

from clmr.config import Config
from clmr.errors import ConfigError
from clmr.registry import did_you_mean


class Arguments(ArgumentParser):
    """What a command takes besides settings; every setting is a flag of it as well.

    The settings have to be known here, to tell a value of theirs from an argument.

    Args:
        usage: One line, without the settings.
        description: What the command does.
        settings: Names of those that `--help` shows.
    """

    def __init__(self, usage: str, description: str, settings: Collection[str]) -> None:
        usage += " [--SETTING VALUE ...]"
        super().__init__(usage=usage, description=description)
        group = self.add_argument_group(
            "settings", "every key of config/config.yaml is a flag; those that count here are:"
        )
        group.add_argument(
            "--config", dest="settings", action=_Keep, default=(), metavar="FILE",
            help="YAML file that overrides config.yaml",
        )  # fmt: skip
        group.add_argument(
            "--print_config", dest="settings", action=_Keep, nargs=0, help=SUPPRESS
        )
        for f in fields(Config):
            meaning = f"{f.metadata['help']} (default: {f.default})".replace("%", "%%")
            group.add_argument(
                f"--{f.name}", dest="settings", action=_Keep, default=(), metavar="VALUE",
                help=meaning if f.name in settings else SUPPRESS,
            )  # fmt: skip

    def split(self, argv: list[str]) -> tuple[dict[str, Any], list[str]]:
        """Part a command line into the command's own arguments, by name, and the settings.

        Raises:
            ConfigError: There is an unknown flag, a wrong value, or an argument is missing.
            SystemExit: After `--help`, with status 0.
        """
        for flag in (word.split("=")[0] for word in argv if word.startswith("--") and word != "--"):
            if flag not in self._option_string_actions:
                nearest = did_you_mean(flag, self._option_string_actions)
                raise ConfigError(f"unknown flag {flag}{nearest}; see --help")
        own = vars(self.parse_args(argv))
        return own, list(own.pop("settings"))

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")


class _Keep(Action):
    """Keep a setting as it was written."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, value: Any, flag: str | None = None
    ) -> None:
        word = flag if self.nargs == 0 else f"{flag}={value}"
        namespace.settings = (*namespace.settings, word)
