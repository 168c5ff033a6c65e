"""What the scripts share: settings in, a summary or one clear error out."""

import io
import logging
import sys
import warnings
from collections.abc import Callable

from clmr.config import Config, load_config
from clmr.errors import ClmrError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def run(workflow: Callable[[Config], object], argv: list[str] | None = None) -> int:
    """Run a workflow with the settings of the command line, and print what it returns if anything.

    Returns:
        Exit status: 0, or 1 after an error that the user can mend, or 130 after Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may hold what it cannot encode
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("clmr").setLevel(logging.INFO)
    for chatty in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|simclr")
    try:
        result = workflow(load_config(argv))
        if result is not None:
            print(result)
    except ClmrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"\ninterrupted: {interrupt}", file=sys.stderr)
        return INTERRUPTED
    return 0
