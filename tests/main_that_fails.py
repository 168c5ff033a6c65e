"""main.py, in which something happens to one process in its third step: WHAT, to STRUCK.

With OTHERS=hang the others wait in that step where no exception reaches them, as they would in
NCCL for the numbers of the one that is gone.
"""

import math
import os
import signal
import sys
import time

from clmr.command import run
from clmr.modules import ContrastiveLearning
from clmr.train import train

STEP = 2


def strike():
    what = os.environ["WHAT"]
    if what == "raise":
        raise ZeroDivisionError("a bug of our own")
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "terminate": signal.SIGTERM}[what])


def training_step(module, *args):
    if module.global_step >= STEP:
        if os.environ["WHAT"] == "nan":
            return original(module, *args) * math.nan
        if module.global_step == STEP:
            if module.global_rank == int(os.environ["STRUCK"]):
                strike()
            elif os.environ.get("OTHERS") == "hang":
                time.sleep(1000)
    return original(module, *args)


original = ContrastiveLearning.training_step
ContrastiveLearning.training_step = training_step

if __name__ == "__main__":
    sys.exit(run(train))
