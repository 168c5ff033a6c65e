"""What there is besides the scripts: python -m clmr <command> ..."""

import sys
from collections.abc import Callable

from clmr.command import run
from clmr.errors import ConfigError
from clmr.registry import lookup

USAGE = "usage: python -m clmr COMMAND ...\n\n{}\n\npython -m clmr COMMAND --help tells more"


# Each imports its workflow when it is called: that takes seconds.


def augment(argv: list[str]) -> int:
    """Write augmented copies of a file, to hear and see what the settings do."""
    from clmr import augment

    return run(augment.augment, argv, augment.arguments())


COMMANDS: dict[str, Callable[[list[str]], int]] = {"augment": augment}


def main(argv: list[str]) -> int:
    """Run a command; its first line of documentation is its help."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format("\n".join(f"  {k:<10}{v.__doc__}" for k, v in COMMANDS.items())))
        return 0
    try:
        command = lookup("command", COMMANDS, argv[0])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return command(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
