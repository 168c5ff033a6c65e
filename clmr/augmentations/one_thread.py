"""Computing in one thread for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let this thread's operations on the CPU run on one core.

    Those of the augmentations are many and small: several cores wait for each other longer than
    they compute. On one, sums are also taken in the same order on every machine.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
