"""Two processes, started by torchrun, against one that has their clips in one batch.

Both compute in float64. In float32 rounding turns a ReLU or a maximum here and there, after which
gradients differ by percents, between two orders of one batch in one process as well.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_runs import TRAIN, VALID, settings, write_music

from clmr.losses import LOSSES

ROOT = Path(__file__).parents[2]
N_STEPS, BATCH = 5, 2
MORE = tuple(f"more{number}.wav" for number in range(5))  # 12 clips to train on in all
IN_EPOCH = (len(TRAIN) + len(MORE)) // (2 * BATCH)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """What two processes and one have told, each in a folder of its own."""
    home = tmp_path_factory.mktemp("home")
    write_music(home / "music", (*TRAIN, *MORE, *VALID))
    changed = {"max_steps": N_STEPS, "learning_rate": 0.01}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    argv = settings(home, **changed, batch_size=2 * BATCH)
    tell(home / "one", [sys.executable], argv)  # the store is written here
    tell(home / "two", torchrun, settings(home, **changed, batch_size=BATCH))
    return home


def tell(folder, how, argv):
    folder.mkdir()
    done = subprocess.run(
        [*how, "tests/job/main_that_tells.py", folder, *argv],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=200,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(params=LOSSES)
def told(home, request):
    """Of one process, and of each of two."""
    places = (home / "one", 0), (home / "two", 0), (home / "two", 1)
    return [
        torch.load(folder / f"{request.param}-{rank}.pt", weights_only=False)
        for folder, rank in places
    ]


def close(found, expected, rounding=0.0):
    return (found - expected).norm() <= 1e-5 * expected.norm() + rounding


def test_the_mean_loss_of_two_processes_is_that_of_one_at_every_step(told):
    one, *two = (torch.stack(each["losses"]) for each in told)
    assert len(one) == N_STEPS
    assert close(torch.stack(two).mean(0), one)


def test_the_gradient_of_every_parameter_is_that_of_one_process(told):
    one, *two = (each["gradients"] for each in told)
    # Biases before a batch norm have a gradient of zero, of which only rounding is left.
    rounding = 1e-12 * max(gradient.norm() for gradient in one.values())
    for found in two:
        assert found.keys() == one.keys()
        assert [name for name in one if not close(found[name], one[name], rounding)] == []


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_and_running_statistics_after_five_steps_are_those_of_one_process(home, loss):
    one, two = (
        torch.load(home / folder / loss / "last.ckpt", weights_only=True)
        for folder in ("one", "two")
    )
    assert one["global_step"] == two["global_step"] == N_STEPS
    one, two = one["state_dict"], two["state_dict"]
    assert one.keys() == two.keys()
    assert {name.split(".")[-1] for name in one} >= {"weight", "running_mean", "running_var"}
    assert [name for name in one if not close(two[name].double(), one[name].double())] == []


def test_two_processes_share_out_the_clips_of_an_epoch(told):
    one, *two = (np.concatenate(each["clips"][:IN_EPOCH]).tolist() for each in told)
    assert sorted(two[0] + two[1]) == sorted(set(one))
    assert len(one) == len(TRAIN) + len(MORE)


def test_the_augmentations_of_two_processes_differ_at_every_step(told):
    drawn = [draws for each in told[1:] for draws in each["own_draws"].values()]
    assert len(set(drawn)) == len(drawn) == 2 * N_STEPS
