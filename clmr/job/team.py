"""Work on several devices: all processes start and end together, and one of them speaks."""

import itertools
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from clmr.errors import ClmrError, status_of
from clmr.job.launch import Job
from clmr.job.watch import JOIN_S, Watch

T = TypeVar("T")

PATIENCE_S = 2  # before an exception counts as its process's own, and not as news of a dead one
LEAVE_S = 30  # for the other processes to end when this one has

_uses = itertools.count()  # of one store, by programs that train several times


class Team:
    """The processes of a job, to agree on what only one of them should decide or do.

    Args:
        rank: Number of this process.
        store: Which all of them can reach; None for one process.
    """

    def __init__(self, rank: int = 0, store: dist.Store | None = None) -> None:
        self.rank, self.store = rank, store

    def first(self, name: str, make: Callable[[], str]) -> str:
        """What `make` gives to the first process, for all of them.

        Args:
            name: Of what is agreed on, once.
            make: Called by the first process only.
        """
        if self.store is None:
            return make()
        if self.rank == 0:
            self.store.set(name, make())
        self._wait_for(name)
        return self.store.get(name).decode()

    def after_first(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives to each process; the others begin when the first one is done."""
        if self.store is None:
            return make()
        if self.rank == 0:
            made = make()
            self.store.set(name, "done")
            return made
        self._wait_for(name)
        return make()

    def _wait_for(self, name: str) -> None:
        """As long as it takes; should the first process fail meanwhile, this one is ended."""
        while not self.store.check([name]):
            time.sleep(0.1)


@contextmanager
def together(job: Job) -> Iterator[Team]:
    """Start the other processes of a job, and see to it that all end if one does before its time.

    Of the exceptions of several processes the first one is raised, in its process, and has to be
    printed; the other processes end without, and say in a line of whose exception they end.

    Raises:
        ClmrError: The other processes have not come, or ended otherwise than this one.
        SystemExit: Another process has failed.
    """
    if job.world_size == 1:
        yield Team()
        return
    if job.rank:
        logging.getLogger("clmr").setLevel(logging.ERROR)  # the first process speaks for all
    store = _store(job)
    others = job.start_others()
    try:
        watch = _watch(job, store, others)
        try:
            yield Team(job.rank, store)
        except BaseException as error:
            _raise_once(error, watch)
        watch.leave()
        _wait_for(others)
    finally:
        _end(others)


def _watch(job: Job, store: dist.Store, others: list[subprocess.Popen]) -> Watch:
    try:
        return Watch(
            store, job.environment.main_address, job.rank, job.world_size,
            check=lambda: _check_running(others), on_end=lambda: _kill(others),
        )  # fmt: skip
    except BaseException:  # nobody has told the others yet
        _kill(others)
        raise


def _store(job: Job) -> dist.Store:
    """The store by which torch's processes find each other: ours, or that of torchrun."""
    host, port = job.environment.main_address, job.environment.main_port
    of_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = dist.TCPStore(
            host,
            port,
            is_master=job.rank == 0 and not of_torchrun,
            timeout=timedelta(seconds=JOIN_S),
            wait_for_workers=False,
            multi_tenant=True,  # torch opens it once more
        )
    except dist.DistError as error:
        raise ClmrError(
            f"the processes cannot meet at {host}:{port} ({str(error).splitlines()[0]}): see that "
            "the first one runs there, and give another MASTER_PORT if this one is taken"
        ) from error
    return dist.PrefixStore(f"clmr/{next(_uses)}", store)


def _raise_once(error: BaseException, watch: Watch) -> None:
    """Raise an exception in the process that had the first one; end the others."""
    expected = isinstance(error, ClmrError | KeyboardInterrupt)  # alike in all processes
    if watch.first_to_fail(0 if expected else PATIENCE_S):
        raise error
    if not expected:
        print(watch.last_words(), file=sys.stderr)
    interrupted = isinstance(error, KeyboardInterrupt)
    raise SystemExit(status_of(error) if interrupted else 1) from None


def _check_running(others: list[subprocess.Popen]) -> None:
    for rank, process in enumerate(others, start=1):
        if process.poll() is not None:
            raise ClmrError(
                f"process {rank} ended with status {process.returncode} before it could join; what "
                "it said is above"
            )


def _wait_for(others: list[subprocess.Popen]) -> None:
    """See how the other processes end, which have the same work behind them."""
    for rank, process in enumerate(others, start=1):
        try:
            status = process.wait(LEAVE_S)
        except subprocess.TimeoutExpired as error:
            raise ClmrError(f"process {rank} has not ended {LEAVE_S} s after the first") from error
        if status:
            raise ClmrError(f"process {rank} ended with status {status}, after the last step")


def _end(others: list[subprocess.Popen]) -> None:
    """Leave no process behind."""
    ends = time.monotonic() + LEAVE_S
    for process in others:
        try:
            process.wait(max(0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _kill(others: list[subprocess.Popen]) -> None:
    for process in others:
        process.kill()
