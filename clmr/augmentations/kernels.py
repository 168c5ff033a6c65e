"""Kernels of Triton: whether they can be had, and whether they suit."""

from __future__ import annotations

import logging
import subprocess
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

if find_spec("triton"):  # torch's builds for the CPU and for macOS come without it
    import triton
    import triton.language as tl
else:
    triton = tl = None

log = logging.getLogger(__name__)

enabled = True  # False: torch's operations alone, to compare with


def kernels_suit(x: Tensor) -> bool:
    """Whether to work on x in kernels of Triton."""
    suits = enabled and triton is not None and x.is_cuda and x.dtype == torch.float32
    return suits and can_launch()


@cache
def can_launch() -> bool:
    """Whether Triton can build its launcher: that takes a C compiler and the headers of Python."""
    try:
        triton.runtime.driver.active.get_current_target()
    except (RuntimeError, subprocess.CalledProcessError) as error:
        log.warning("augmentations go without their Triton kernels, which is slower: %s", error)
        return False
    return True


def jit(function: Any) -> Any:
    """Make a kernel of a function, where Triton is installed."""
    return triton.jit(function) if triton else function
