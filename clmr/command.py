"""What the scripts and commands share: settings in, a summary or one clear error out."""

import io
import logging
import sys
import warnings
from collections.abc import Callable

from clmr.arguments import Arguments
from clmr.config import load_config
from clmr.errors import ClmrError, status_of


def run(
    workflow: Callable[..., object],
    argv: list[str] | None = None,
    arguments: Arguments | None = None,
) -> int:
    """Run a workflow with the settings of the command line, and print what it returns if anything.

    Args:
        workflow: Called with a `Config`, and with the arguments by name.
        argv: The command line without the program's name; None takes it from `sys.argv`.
        arguments: What the command takes besides settings.

    Returns:
        Exit status: 0, or 1 after an error that the user can mend, or 130 after Ctrl-C,
        or 143 after SIGTERM.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may hold what it cannot encode
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("clmr").setLevel(logging.INFO)
    for chatty in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|simclr")
    try:
        argv = sys.argv[1:] if argv is None else argv
        own, settings = arguments.split(argv) if arguments else ({}, argv)
        result = workflow(load_config(settings), **own)
        if result is not None:
            print(result)
    except ClmrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"\ninterrupted: {interrupt}", file=sys.stderr)
        return status_of(interrupt)
    return 0
