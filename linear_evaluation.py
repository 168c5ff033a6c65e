"""Evaluate a frozen encoder: python linear_evaluation.py --checkpoint_path runs/.../last.ckpt"""

import sys

from clmr.command import run
from clmr.evaluate import evaluate

if __name__ == "__main__":
    sys.exit(run(evaluate))
