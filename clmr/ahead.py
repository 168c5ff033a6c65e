"""Batches that are read ahead by a thread, so that no step waits for the disk."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch.utils.data import DataLoader

N_AHEAD = 2  # batches that lie ready beside the one in use
THREAD_NAME = "clmr-reading"

T = TypeVar("T")


class ReadAhead(DataLoader):
    """A DataLoader that reads ahead: with its processes, as any does, or without them in a thread.

    The batches and their order are the same in either way. One thread is enough: a batch is copied
    out of mapped files, during which the main thread goes on.
    """

    def __iter__(self) -> Iterator:
        batches = super().__iter__()  # settles where the sampler starts
        if self.num_workers:
            return batches
        return read_ahead(batches, torch.cuda.current_device() if self.pin_memory else None)


def read_ahead(batches: Iterator[T], device: int | None = None) -> Iterator[T]:
    """Yield what an iterator yields, while a thread takes the next `N_AHEAD` items from it.

    An exception of the iterator comes with its own traceback, after the items before it. The thread
    ends with the generator.

    Args:
        batches: Used in the thread only.
        device: The GPU that the thread pins memory for; a new thread would choose the first one.
    """
    # A GPU's number is set before the first item, as it is for each thread by itself.
    start = {} if device is None else {"initializer": torch.cuda.set_device, "initargs": (device,)}
    pool = ThreadPoolExecutor(1, THREAD_NAME, **start)
    try:
        ahead = deque(pool.submit(next, batches) for _ in range(N_AHEAD))
        while True:
            try:
                batch = ahead.popleft().result()
            except StopIteration:
                return
            ahead.append(pool.submit(next, batches))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
