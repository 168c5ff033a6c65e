"""Jobs of two processes on the CPU, started in every way that there is, and ended in every way."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fixtures_runs import TRAIN, VALID, curve, settings, state, write_music

ROOT = Path(__file__).parents[2]
MORE = tuple(f"more{number}.wav" for number in range(5))  # 12 clips to train on in all
LIMIT_S = 150  # for six jobs to start at once, and to end
PYTHON = [sys.executable]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
STANDALONE = [*TORCHRUN, "--standalone"]
NODES = [*TORCHRUN[:-1], "--nproc_per_node=1", "--nnodes=2", "--master_addr=127.0.0.1"]
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "clmr",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "127.0.0.1",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with music, where the store will be."""
    home = tmp_path_factory.mktemp("home")
    write_music(home / "music", (*TRAIN, *MORE, *VALID))
    return home


class Started:
    """A command that runs with all of its processes in a group of their own."""

    def __init__(self, how, argv, script="main.py", **variables):
        self.process = subprocess.Popen(
            [*how, script, *argv], cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def wait_for(self, path):
        deadline = time.monotonic() + 100
        while not path.exists():
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.05)

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def end(self, limit_s=100):
        """Its exit status and what it said; none of its processes may be left."""
        said, _ = self.process.communicate(timeout=limit_s)
        deadline = time.monotonic() + 10  # of processes that read data, and see to it themselves
        while is_running(self.process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return self.process.returncode, said


def is_running(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def by_slurm(argv):
    """Two processes with what srun would have told them."""
    return [
        Started(PYTHON, argv, **SLURM, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank))
        for rank in range(2)
    ]


def by_torchrun_on_two_nodes(argv):
    """Two nodes of a process each, which here are one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        Started([*NODES, f"--master_port={port}", f"--node_rank={node}"], argv) for node in (0, 1)
    ]


# Stopped and started again.


def test_a_job_that_slurm_ends_and_requeues_ends_as_one_that_was_never_stopped(home):
    folder, straight = home / "slurm", home / "straight"
    argv = settings(home, batch_size=2, resume="auto", save_every_n_steps=1)
    job = by_slurm([*argv, f"--run_dir={folder}", "--max_steps=100000"])
    job[0].wait_for(folder / "last.ckpt")
    for process in job:
        process.signal(signal.SIGTERM)
    ends = [process.end() for process in job]
    assert [status for status, _ in ends] == [143, 143]
    assert sum(f"interrupted: saved {folder}/last.ckpt; to go on" in said for _, said in ends) == 1
    assert not [said for _, said in ends if "Traceback" in said]
    until = f"--max_steps={int(state(folder)['step']) + 2}"
    again = by_slurm([*argv, f"--run_dir={folder}", until])
    again += by_torchrun_on_two_nodes([*argv, f"--run_dir={straight}", until])
    for process in again:
        status, said = process.end()
        assert status == 0, said
    found, expected = state(folder), state(straight)
    assert f"--max_steps={expected['step']}" == until
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def test_ctrl_c_under_torchrun_saves_though_torchrun_ends_with_1(home):
    folder = home / "torchrun"
    job = Started(STANDALONE, settings(home, run_dir=folder, batch_size=2, max_epochs=10**6))
    job.wait_for(folder / "last.ckpt")
    job.signal(signal.SIGINT)  # to all processes, as a terminal does, and torchrun sends it again
    status, said = job.end()
    assert status == 1
    said, _ = said.split("Traceback", 1)  # torchrun's own
    assert len(re.findall(f"interrupted: saved {folder}/last.ckpt", said)) == 1


# A process that ends before its time.


ENDS = {
    "fails before training": (PYTHON, {"WHAT": "raise", "STRUCK": "1", "WHEN": "before training"}),
    "fails in a step": (STANDALONE, {"WHAT": "raise", "STRUCK": "0"}),
    "is killed": (PYTHON, {"WHAT": "kill", "STRUCK": "0", "OTHERS": "hang"}),
    "is asked to end": (PYTHON, {"WHAT": "terminate", "STRUCK": "1", "WHEN": "loading"}),
    "never joins": (PYTHON, {"WHAT": "raise", "STRUCK": "1", "WHEN": "import"}),
    "comes to nan": (STANDALONE, {"WHAT": "nan"}),
}


@pytest.fixture(scope="module")
def ends(home):
    """How the jobs ended, and what they said before torchrun said what it knows."""
    jobs = {}
    for name, (how, variables) in ENDS.items():
        gpus = {"gpus": 2} if how == PYTHON else {}
        argv = settings(home, run_dir=home / name, batch_size=2, workers=1, max_steps=99, **gpus)
        jobs[name] = Started(how, argv, "tests/job/main_that_fails.py", **variables)
    ends = {name: job.end(LIMIT_S) for name, job in jobs.items()}
    return {
        name: (status, said.split("torch/distributed/elastic")[0])
        for name, (status, said) in ends.items()
    }


@pytest.mark.parametrize(("name", "struck"), [("fails before training", 1), ("fails in a step", 0)])
def test_the_traceback_of_a_process_that_fails_comes_first_and_alone(ends, name, struck):
    status, said = ends[name]
    assert status == 1
    assert said.count("Traceback") == 1
    (line,) = re.finditer(
        f"^process {1 - struck} ends, as process {struck} has failed$", said, re.M
    )
    assert said.index("ZeroDivisionError: a bug of our own") < line.start()


def test_when_a_process_is_killed_the_other_says_so_and_ends_wherever_it_waits(ends):
    status, said = ends["is killed"]
    assert status == -signal.SIGKILL
    assert "Traceback" not in said
    assert len(re.findall(r"^process 1 ends, as process 0 died .*killed", said, re.M)) == 1


def test_a_sigterm_to_one_process_before_the_first_step_ends_all_with_a_checkpoint(home, ends):
    status, said = ends["is asked to end"]
    assert status == 143
    assert "Traceback" not in said
    assert len(re.findall("interrupted: saved .*/last.ckpt; to go on", said)) == 1
    assert int(state(home / "is asked to end")["step"]) == 0


def test_a_process_that_never_joins_ends_the_job(ends):
    status, said = ends["never joins"]
    assert status == 1
    line = "error: process 1 ended with status 1 before it could join"
    assert said.index("ZeroDivisionError: a bug of our own") < said.index(line)


def test_what_is_wrong_in_all_processes_is_said_once(home, ends):
    status, said = ends["comes to nan"]
    assert status == 1
    assert "Traceback" not in said
    assert len(re.findall("error: the loss is nan at step 2, .* on the clips", said)) == 1
    assert not list((home / "comes to nan").glob("*.ckpt"))


# Little data.


def test_a_clip_a_process_without_a_store_is_preprocessed_by_one_and_trained_on(tmp_path):
    write_music(tmp_path / "music", (*TRAIN[:3], *VALID))
    argv = settings(tmp_path, run_dir=tmp_path / "run", batch_size=1, max_steps=2, gpus=2)
    status, said = Started(PYTHON, argv).end()
    assert status == 0, said
    assert len(re.findall("preprocessing first", said)) == 1
    assert all(torch.isfinite(value).all() for value in state(tmp_path / "run").values())
    for name in ("Train/loss_step", "Valid/loss"):
        losses = curve(tmp_path / "run", name)
        assert all(0 < loss < 10 for loss in losses.values())
        assert len(losses) == 2
