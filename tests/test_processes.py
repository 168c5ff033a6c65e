import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path

import pytest

from clmr.processes import map_unordered

PATIENCE_S = 10  # tasks that should be ended sleep for 60


def square(x: int) -> tuple[int, int]:
    return x * x, os.getpid()


def fail_at_3(x: int) -> None:
    if x == 3:
        raise ValueError("3 is not to be done")
    time.sleep(60)


def sleep_unless_0(x: int) -> int:
    if x:
        time.sleep(60)
    return x


def die(x: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt_oneself(x: int) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return x


def complain(x: int) -> None:
    os.write(2, b"codec: what a strange file\n")


def note_and_sleep(path: Path) -> None:
    path.write_text(str(os.getpid()))
    time.sleep(60)


def sleep_in_two_workers(paths: list[Path]) -> None:
    list(map_unordered(note_and_sleep, paths, 2))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_task_comes_back_once_with_its_own_result():
    for n_workers in (1, 2, 3):
        results = map_unordered(square, [*range(40)], n_workers)
        assert sorted((x, y) for x, (y, _) in results) == [(x, x * x) for x in range(40)]


def test_nothing_to_do_is_done_at_once():
    for n_workers in (1, 2):
        assert list(map_unordered(square, [], n_workers)) == []


def test_one_worker_is_this_process_and_two_are_others():
    pids = {n: {pid for _, (_, pid) in map_unordered(square, [*range(40)], n)} for n in (1, 2)}
    assert pids[1] == {os.getpid()}
    assert os.getpid() not in pids[2]
    assert len(pids[2]) <= 2


def test_an_error_comes_through_and_ends_the_other_workers_at_once():
    started = time.monotonic()
    with pytest.raises(ValueError, match="3 is not to be done"):
        list(map_unordered(fail_at_3, [1, 3], 2))
    wait_until(lambda: not multiprocessing.active_children())
    assert time.monotonic() - started < PATIENCE_S


def test_who_stops_listening_ends_the_workers_at_once():
    started = time.monotonic()
    with closing(map_unordered(sleep_unless_0, [0, 1, 2], 2)) as results:
        assert next(results) == (0, 0)
    wait_until(lambda: not multiprocessing.active_children())
    assert time.monotonic() - started < PATIENCE_S


def test_children_that_were_there_before_are_left_alone():
    other = multiprocessing.Process(target=time.sleep, args=(60,))
    other.start()
    try:
        with pytest.raises(ValueError, match="3 is not to be done"):
            list(map_unordered(fail_at_3, [1, 3], 2))
        other.join(0.3)
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


def test_a_worker_that_dies_is_an_error_and_no_endless_wait():
    with pytest.raises(BrokenProcessPool):
        list(map_unordered(die, [1, 2, 3], 2))


def test_workers_leave_ctrl_c_to_the_parent():
    try:
        done = [task for task, _ in map_unordered(interrupt_oneself, [1, 2, 3], 2)]
    except KeyboardInterrupt:
        pytest.fail("a worker was interrupted")
    assert sorted(done) == [1, 2, 3]


def test_what_codecs_say_in_workers_does_not_reach_the_terminal(capfd: pytest.CaptureFixture[str]):
    list(map_unordered(complain, [1, 2, 3], 2))
    assert capfd.readouterr().err == ""


def test_no_worker_outlives_a_parent_that_was_killed(tmp_path: Path):
    paths = [tmp_path / "1", tmp_path / "2"]
    parent = multiprocessing.Process(target=sleep_in_two_workers, args=(paths,))
    parent.start()
    wait_until(lambda: all(path.exists() and path.read_text() for path in paths))
    workers = [int(path.read_text()) for path in paths]
    assert all(map(alive, workers))
    try:
        parent.kill()
        parent.join()
        wait_until(lambda: not any(map(alive, workers)))
    finally:
        for pid in filter(alive, workers):
            os.kill(pid, signal.SIGKILL)
