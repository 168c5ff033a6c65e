"""Work spread over processes that neither outlive their parent nor talk over its progress bar."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait
from typing import TypeVar

import torch

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_unordered(
    function: Callable[[Task], Result], tasks: list[Task], n_workers: int
) -> Iterator[tuple[Task, Result]]:
    """Yield each task with its result as it is done; one worker is this very process.

    Whatever ends the loop early, an exception or Ctrl-C, ends the workers as well.

    Raises:
        BrokenProcessPool: A worker died.
    """
    if n_workers == 1:
        yield from ((task, function(task)) for task in tasks)
        return
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(n_workers, initializer=_start_worker) as executor:
        futures = {executor.submit(function, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C does
    torch.set_num_threads(1)  # OpenMP in a forked process may hang, and every core has its worker
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # codecs complain there about damaged files; ours are the reasons that count
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End this process when its parent is gone, killed even; a pool by itself would wait on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
