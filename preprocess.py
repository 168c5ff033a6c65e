"""Decode a dataset once into a PCM store: python preprocess.py --dataset audio --dataset_dir DIR"""

import sys

from clmr.command import run
from clmr.preprocess import preprocess

if __name__ == "__main__":
    sys.exit(run(preprocess))
