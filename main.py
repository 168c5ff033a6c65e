"""Pretrain an encoder by contrast: python main.py --dataset audio --dataset_dir DIR"""

import sys

from clmr.command import run
from clmr.train import train

if __name__ == "__main__":
    sys.exit(run(train))
