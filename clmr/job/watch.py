"""Processes that learn at once when one of them ends before its time.

Each has a connection to the first one, apart from those that training uses: the system closes it
when a process dies of whatever cause, and a thread waits for that while training may be waiting,
for ever, for numbers of the dead one.
"""

import json
import multiprocessing
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import torch.distributed as dist

from clmr.errors import ClmrError

JOIN_S = 300  # for all processes to come, as they import from slow disks
HELLO_S = 10
GRACE_S = 10  # for a process to end by itself after another one has failed
# A machine that has lost its power closes nothing: it is missed after 10 + 4 * 5 seconds.
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
DONE, FAILED = b"D", b"F"
DIED = "died without a word (killed, or out of memory?)"


class Verdict(NamedTuple):
    """Which process was the first to end before its time, and how."""

    rank: int
    how: str


class Watch:
    """This process among the others of its job.

    Args:
        store: Which all of them can reach, for the address of the first one.
        host: Of the first one.
        rank: Number of this process.
        world_size: How many there are.
        check: Called while the first one waits for the others; raises if they cannot come.
        on_end: Called before this process ends because another one has failed.

    Raises:
        ClmrError: Not all have come in `JOIN_S`.
    """

    def __init__(
        self,
        store: dist.Store,
        host: str,
        rank: int,
        world_size: int,
        check: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.rank = rank
        self.verdict: Verdict | None = None
        self._on_end, self._told, self._left = on_end, threading.Event(), False
        if rank == 0:
            self._to_first, own = socket.socketpair()
            members = {own: 0} | _gather(store, world_size, check)
            threading.Thread(target=_serve, args=(members,), daemon=True).start()
        else:
            self._to_first = _connect(host, *json.loads(store.get("watch")), rank)
        threading.Thread(target=self._listen, daemon=True).start()

    def leave(self) -> None:
        """Say that this process has done its part."""
        self._left = True
        self._say(DONE)

    def first_to_fail(self, patience_s: float) -> bool:
        """Say that this process fails; whether it is the first to, and so the one to be heard.

        Args:
            patience_s: Wait so long before that for the news that another one has: what fails
                here may be for want of that one.
        """
        if not self._told.wait(patience_s):
            self._say(FAILED)
            self._told.wait(HELLO_S)
        self._left = True
        return self.verdict is None or self.verdict.rank == self.rank

    def last_words(self) -> str:
        """Why this process ends, after another one has failed; below the line of a bar."""
        return f"\nprocess {self.rank} ends, as process {self.verdict.rank} {self.verdict.how}"

    def _say(self, word: bytes) -> None:
        with suppress(OSError):  # the first one is gone, which `_listen` notices
            self._to_first.sendall(word)

    def _listen(self) -> None:
        try:
            line = self._to_first.makefile().readline()
        except OSError:  # reset, or given up by keepalive
            line = ""
        if line == "null\n":  # the first one has done its part, and watches no longer
            self._told.set()
            return
        self.verdict = Verdict(*json.loads(line)) if line else Verdict(0, DIED)
        self._told.set()
        time.sleep(GRACE_S)
        if not self._left and self.verdict.rank != self.rank:
            self._end()

    def _end(self) -> None:
        """End a process that waits for another one in a place where no exception reaches it."""
        self._on_end()
        for process in multiprocessing.active_children():  # they read data
            process.kill()
        print(self.last_words(), file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)


def _gather(
    store: dist.Store, world_size: int, check: Callable[[], None]
) -> dict[socket.socket, int]:
    """Let all others connect to this process, and know them by the word that they had to say."""
    token = secrets.token_hex(8)
    members: dict[socket.socket, int] = {}
    both = {"family": socket.AF_INET6, "dualstack_ipv6": True}  # and IPv4
    kind = both if socket.has_dualstack_ipv6() else {}
    with socket.create_server(("", 0), backlog=world_size, **kind) as server:
        server.settimeout(1)
        store.set("watch", json.dumps([server.getsockname()[1], token]))
        ends = time.monotonic() + JOIN_S
        while len(members) < world_size - 1:
            check()
            if time.monotonic() > ends:
                raise ClmrError(
                    f"{len(members) + 1} of {world_size} processes have come in {JOIN_S} s: start "
                    "as many as --gpus times --num_nodes says, under SLURM by srun"
                )
            with suppress(TimeoutError):
                connection, _ = server.accept()
                if (rank := _rank_of(connection, token)) is not None:
                    members[connection] = rank
    return members


def _rank_of(connection: socket.socket, token: str) -> int | None:
    """Who it is that has connected; None and hung up if it is none of ours."""
    length = len(_hello(token, 0))
    connection.settimeout(HELLO_S)
    with suppress(OSError):
        said = connection.recv(length, socket.MSG_WAITALL)
        if len(said) == length and said.startswith(token.encode()):
            _keep_alive(connection)
            return int(said[-8:])
    connection.close()
    return None


def _connect(host: str, port: int, token: str, rank: int) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=HELLO_S)
    connection.sendall(_hello(token, rank))
    _keep_alive(connection)
    return connection


def _hello(token: str, rank: int) -> bytes:
    return f"{token}{rank:8d}".encode()


def _keep_alive(connection: socket.socket) -> None:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not everywhere by this name
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _serve(members: dict[socket.socket, int]) -> None:
    """Wait for whoever ends, and tell all others of the first that fails."""
    verdict = None
    with selectors.DefaultSelector() as selector:
        for connection in members:
            selector.register(connection, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                try:
                    word = key.fileobj.recv(1)
                except OSError:
                    word = b""
                selector.unregister(key.fileobj)
                rank = members[key.fileobj]
                if word != DONE and verdict is None:
                    verdict = Verdict(rank, "has failed" if word == FAILED else DIED)
                    _tell(members, verdict)
                elif word == DONE and rank == 0:
                    _tell(members, None)


def _tell(members: dict[socket.socket, int], verdict: Verdict | None) -> None:
    for connection in members:
        with suppress(OSError):  # has ended
            connection.sendall(json.dumps(verdict).encode() + b"\n")
