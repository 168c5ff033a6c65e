"""main.py, in which something happens to one of several processes: WHAT, to STRUCK, at WHEN.

With OTHERS=hang the others wait in that step where no exception reaches them, as they would in
NCCL for the numbers of the one that is gone.
"""

import math
import os
import signal
import sys
import time

from clmr.command import run
from clmr.datamodule import ContrastiveDataModule
from clmr.job import watch
from clmr.modules import ContrastiveLearning
from clmr.train import train

WHAT, WHEN = os.environ["WHAT"], os.environ.get("WHEN", "step")
STRUCK = int(os.environ.get("STRUCK", -1))
IS_STRUCK = int(os.environ.get("LOCAL_RANK", 0)) == STRUCK
STEP = 2


def strike(when):
    if when != WHEN or not IS_STRUCK:
        return
    if WHAT == "raise":
        raise ZeroDivisionError("a bug of our own")
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "terminate": signal.SIGTERM}[WHAT])


def check_enough_clips(data, n_devices):
    strike("before training")
    own_check(data, n_devices)


def train_dataloader(data):
    strike("loading")  # Lightning has set up everything, and no step has run
    return own_dataloader(data)


def training_step(module, *args):
    if WHAT == "nan" and module.global_step >= STEP:
        return own_step(module, *args) * math.nan
    if module.global_step == STEP:
        strike("step")
        if os.environ.get("OTHERS") == "hang" and not IS_STRUCK:
            time.sleep(1000)
    return own_step(module, *args)


own_step, own_check = ContrastiveLearning.training_step, ContrastiveDataModule.check_enough_clips
own_dataloader = ContrastiveDataModule.train_dataloader
ContrastiveDataModule.train_dataloader = train_dataloader
ContrastiveLearning.training_step = training_step
ContrastiveDataModule.check_enough_clips = check_enough_clips
watch.GRACE_S = 2

if __name__ == "__main__":
    strike("import")
    sys.exit(run(train))
