"""Who learns of whose end, in threads of one process that are connected as processes are."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from clmr.errors import ClmrError
from clmr.job import watch as module
from clmr.job.watch import Verdict, Watch

N = 3
DIED = "died without a word (killed, or out of memory?)"


@pytest.fixture
def watches(monkeypatch):
    """Of three processes; what each would do to end itself is to note it."""
    monkeypatch.setattr(module, "GRACE_S", 0.2)
    monkeypatch.setattr(Watch, "_end", lambda watch: ended.append(watch.rank))
    ended, store = [], dist.HashStore()
    with ThreadPoolExecutor(N) as pool:
        made = list(pool.map(lambda rank: Watch(store, "127.0.0.1", rank, N), range(N)))
    yield made, ended
    for watch in made:
        watch.leave()


def wait_until(true):
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def die(watch):
    """As the system does for a process that is killed: its connection is closed."""
    watch._to_first.shutdown(2)


@pytest.mark.parametrize("dead", [1, 2])
def test_a_process_that_dies_ends_all_others_by_its_name(watches, dead):
    watches, ended = watches
    die(watches[dead])
    others = [watch for watch in watches if watch.rank != dead]
    wait_until(lambda: len(set(ended) - {dead}) == len(others))
    assert {watch.verdict for watch in others} == {Verdict(dead, DIED)}
    assert f"process 0 ends, as process {dead} {DIED}" in others[0].last_words()


def test_all_end_when_the_first_one_dies_which_the_others_are_connected_to(monkeypatch):
    monkeypatch.setattr(module, "GRACE_S", 0)
    monkeypatch.setattr(module, "_serve", lambda members: [end.shutdown(2) for end in members])
    monkeypatch.setattr(Watch, "_end", lambda watch: ended.append((watch.rank, watch.verdict)))
    ended, store = [], dist.HashStore()
    with ThreadPoolExecutor(N) as pool:
        list(pool.map(lambda rank: Watch(store, "127.0.0.1", rank, N), range(N)))
    wait_until(lambda: len(ended) == 2)
    assert sorted(ended) == [(1, Verdict(0, DIED)), (2, Verdict(0, DIED))]


def test_of_all_that_fail_one_is_the_first_and_nobody_is_ended_from_outside(watches):
    watches, ended = watches
    with ThreadPoolExecutor(N) as pool:
        first = list(pool.map(lambda watch: watch.first_to_fail(0), watches))
    assert sum(first) == 1
    time.sleep(0.5)
    assert ended == []


def test_one_that_fails_for_want_of_a_dead_one_is_not_the_first(watches):
    watches, ended = watches
    die(watches[2])
    assert not watches[1].first_to_fail(5)
    wait_until(lambda: 0 in ended)
    assert 1 not in ended  # it ends by itself


def test_a_process_that_has_done_its_part_may_end(watches):
    watches, ended = watches
    watches[1].leave()
    die(watches[1])
    assert watches[2].first_to_fail(0)
    assert watches[2].verdict.rank == 2
    wait_until(lambda: 0 in ended)
    assert 1 not in ended


def test_when_the_first_one_has_done_its_part_its_end_is_no_news(watches):
    watches, ended = watches
    watches[0].leave()
    wait_until(watches[1]._told.is_set)
    assert watches[1].verdict is None
    assert watches[1].first_to_fail(0)
    time.sleep(0.5)
    assert ended == []


def test_a_stranger_that_connects_is_hung_up_and_those_who_do_not_come_are_counted(monkeypatch):
    monkeypatch.setattr(module, "JOIN_S", 2)
    store = dist.HashStore()
    with ThreadPoolExecutor(2) as pool:
        joined = pool.submit(Watch, store, "127.0.0.1", 0, 2)
        store.wait(["watch"])
        port = int(store.get("watch").decode().strip("[").split(",")[0])
        stranger = module._connect("127.0.0.1", port, "0" * 16, 1)
        stranger.settimeout(10)
        assert stranger.recv(1) == b""
        with pytest.raises(ClmrError, match="1 of 2 processes have come in 2 s"):
            joined.result()


def test_a_check_that_fails_ends_the_waiting(monkeypatch):
    monkeypatch.setattr(module, "JOIN_S", 5)

    def check():
        raise ClmrError("process 1 has ended")

    with pytest.raises(ClmrError, match="process 1 has ended"):
        Watch(dist.HashStore(), "127.0.0.1", 0, 2, check=check)
