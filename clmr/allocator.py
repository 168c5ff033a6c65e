"""Keep glibc from giving memory back to the kernel between two steps on the CPU."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process reuse the large blocks that it frees.

    By default every activation of a step is mapped, page-faulted in and unmapped again: for
    `sample_cnn_small` on two cores that was more than a third of the step. Elsewhere than on Linux
    with glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, NEVER)
