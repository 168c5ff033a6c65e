"""Going on with a run: bit for bit, wherever and however it was stopped."""

import logging
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_runs import TRAIN, VALID, config_of, curve, environment, load, same, settings, state
from fixtures_runs import write_music as write

from clmr.checkpoint_io import WholeCheckpoints
from clmr.command import run
from clmr.errors import CheckpointError, ConfigError, DivergedError
from clmr.modules import ContrastiveLearning
from clmr.store import PcmStore
from clmr.train import train

pytestmark = [  # Lightning's, which the commands do not show
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*could not find the monitored key"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]

ROOT = Path(__file__).parents[1]
N_STEPS, IN_EPOCH = 7, len(TRAIN) // 2  # two whole epochs of three steps, and a step
LIMITS = {"batch_size": 2, "max_steps": N_STEPS}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with music, where the store will be."""
    home = tmp_path_factory.mktemp("home")
    write(home / "music", TRAIN + VALID)
    return home


@pytest.fixture(scope="module")
def whole(home):
    """A run that was never stopped."""
    return train(config_of(home, **LIMITS, run_dir=home / "whole"))


def signal_in_step(monkeypatch, number, step, times=1):
    """Let a signal come in the middle of a step, once."""

    def training_step(module, *args):
        loss = original(module, *args)
        if module.global_step == step and left:
            for _ in range(left.pop()):
                signal.raise_signal(number)
        return loss

    left, original = [times], ContrastiveLearning.training_step
    monkeypatch.setattr(ContrastiveLearning, "training_step", training_step)


def start(argv):
    return subprocess.Popen(
        [sys.executable, "main.py", *argv], cwd=ROOT, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(path, process):
    deadline = time.monotonic() + 100
    while not path.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


# Exactness.


@pytest.mark.parametrize(
    ("n_steps", "workers"), [(1, 0), (2, 0), (3, 0), (4, 0), (6, 0), (2, 2), (3, 2)]
)
def test_a_run_stopped_in_any_step_ends_as_one_that_was_never_stopped(
    home, whole, tmp_path, monkeypatch, n_steps, workers
):
    folder = tmp_path / "run"
    argv = settings(home, **LIMITS, run_dir=folder, workers=workers)
    signal_in_step(monkeypatch, signal.SIGINT, n_steps - 1)
    assert run(train, argv) == 130
    assert load(folder / "last.ckpt")["global_step"] == n_steps
    assert run(train, [*argv, f"--checkpoint_path={folder}/last.ckpt"]) == 0
    assert same(state(folder), state(whole.run_dir))
    assert curve(folder, "Train/loss_step") == curve(whole.run_dir, "Train/loss_step")


@pytest.mark.parametrize("n_steps", [2, 3, 6])
def test_a_finished_run_of_which_more_steps_are_wanted_goes_on_exactly(
    home, whole, tmp_path, n_steps
):
    changed = LIMITS | {"run_dir": tmp_path / "run"}
    first = train(config_of(home, **changed | {"max_steps": n_steps}))
    train(config_of(home, **changed, checkpoint_path=first.last))
    assert same(state(first.run_dir), state(whole.run_dir))
    assert sorted(curve(first.run_dir, "Valid/loss")) == sorted(curve(whole.run_dir, "Valid/loss"))


@pytest.mark.parametrize("limit", ["max_steps", "max_epochs"])
def test_whichever_limit_is_given_the_epochs_are_counted_right(home, tmp_path, limit):
    # After the first of two epochs, with a limit of steps that is never reached.
    changed = {"batch_size": 2, "run_dir": tmp_path / "run"}
    first = train(config_of(home, **changed, max_epochs=1))
    limits = {"max_epochs": 2} | ({"max_steps": 99} if limit == "max_steps" else {})
    assert train(config_of(home, **changed, **limits, checkpoint_path=first.last)).n_steps == 6


def test_batches_of_before_are_not_read_again(home, whole, tmp_path, monkeypatch):
    def read(store, *place):
        places.append(place)
        return original(store, *place)

    first = train(config_of(home, **LIMITS | {"max_steps": 2}, run_dir=tmp_path / "run"))
    places, original = [], PcmStore.read
    monkeypatch.setattr(PcmStore, "read", read)
    changed = LIMITS | {"max_steps": 3, "run_dir": tmp_path / "run"}
    train(config_of(home, **changed, checkpoint_path=first.last))
    n_valid = len(VALID) // 2 * 2 * 2
    assert len(places) == 2 * 2 + n_valid  # one batch of two pairs, and the epoch's validation


def test_last_is_written_within_an_epoch_and_the_one_before_it_is_kept(home, whole, tmp_path):
    changed = {"save_every_n_steps": 2, "max_steps": 2, "run_dir": tmp_path / "run"}
    train(config_of(home, **LIMITS | changed))
    assert load(tmp_path / "run" / "last.ckpt")["global_step"] == 2
    changed |= {"max_steps": 5, "checkpoint_path": tmp_path / "run" / "last.ckpt"}
    train(config_of(home, **LIMITS | changed))
    kept = [load(tmp_path / "run" / name) for name in ("last.ckpt", "last-1.ckpt")]
    assert [checkpoint["global_step"] for checkpoint in kept] == [5, 4]


# Processes of their own.


def test_a_run_killed_between_two_checkpoints_ends_as_one_that_was_never_stopped(
    home, whole, tmp_path
):
    folder = tmp_path / "run"
    changed = {"run_dir": folder, "save_every_n_steps": 2, "resume": "auto", "workers": 2}
    argv = settings(home, **LIMITS | changed)
    process = start([*argv, "--max_steps=100000"])
    wait_for(folder / "last.ckpt", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    killed_at = load(folder / "last.ckpt")["global_step"]
    # As long as the killed run had not come further than this one.
    until = killed_at + 3
    assert run(train, [*argv, f"--max_steps={until}"]) == 0
    straight = tmp_path / "straight"
    train(config_of(home, **LIMITS | {"max_steps": until, "run_dir": straight}))
    assert same(state(folder), state(straight))


def stop_by_sigterm(folder, argv):
    """Start a run, stop it after its first steps, and give how many there were."""
    process = start([*argv, f"--run_dir={folder}", "--save_every_n_steps=1", "--max_steps=100000"])
    wait_for(folder / "last.ckpt", process)
    os.killpg(process.pid, signal.SIGTERM)  # a scheduler sends it to all processes of a job
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert len(re.findall(f"interrupted: saved {folder}/last.ckpt; to go on: python", err)) == 1
    return load(folder / "last.ckpt")["global_step"]


def test_sigterm_saves_says_how_to_go_on_and_ends_with_143(home, whole, tmp_path):
    folder, straight = tmp_path / "run", tmp_path / "straight"
    argv = settings(home, batch_size=2, workers=2, resume="auto")
    until = stop_by_sigterm(folder, argv) + 2
    for run_dir in (folder, straight):
        assert run(train, [*argv, f"--run_dir={run_dir}", f"--max_steps={until}"]) == 0
    assert same(state(folder), state(straight))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_validation_no_reading_process_is_left(
    home, whole, tmp_path, monkeypatch, number
):
    def on_validation_start(module):
        signal.raise_signal(number)

    monkeypatch.setattr(ContrastiveLearning, "on_validation_start", on_validation_start)
    others = set(multiprocessing.active_children())
    changed = {"run_dir": tmp_path / "run", "workers": 1, "max_epochs": 2}
    assert run(train, settings(home, **LIMITS | changed)) == 128 + number
    assert set(multiprocessing.active_children()) <= others
    assert load(tmp_path / "run" / "last.ckpt")["global_step"] == IN_EPOCH


def test_a_second_sigterm_does_not_kill_the_step(home, whole, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    signal_in_step(monkeypatch, signal.SIGTERM, step=1, times=2)
    before = signal.getsignal(signal.SIGTERM)
    assert run(train, settings(home, **LIMITS, run_dir=folder)) == 143
    assert f"interrupted: saved {folder}/last.ckpt" in capsys.readouterr().err
    assert load(folder / "last.ckpt")["global_step"] == 2
    assert signal.getsignal(signal.SIGTERM) == before


# Numbers that are none.


def nan_at(monkeypatch, step):
    """Let the loss be NaN from a step on; the weights are after it."""

    def training_step(module, *args):
        return original(module, *args) * (math.nan if module.global_step >= step else 1)

    original = ContrastiveLearning.training_step
    monkeypatch.setattr(ContrastiveLearning, "training_step", training_step)


def clips_of(home, step):
    """The files of a step's batch, drawn as CropSampler says: by seed and epoch alone."""
    store = PcmStore(home / "store")
    train = [number for number, name in enumerate(store.ids) if name.startswith("train")]
    order = np.random.default_rng((42, step // IN_EPOCH)).permutation(len(train))
    first = step % IN_EPOCH * 2
    return [store.ids[train[k]] for k in order[first : first + 2]]


@pytest.mark.parametrize("log_every_n_steps", [1, 50])
def test_nan_in_the_loss_ends_the_run_with_one_error_and_keeps_the_last_good_checkpoint(
    home, whole, tmp_path, monkeypatch, capsys, log_every_n_steps
):
    nan_at(monkeypatch, step=4)
    changed = {"run_dir": tmp_path / "run", "log_every_n_steps": log_every_n_steps}
    assert run(train, settings(home, **LIMITS | changed)) == 1
    (line,) = re.findall("^error: .*", capsys.readouterr().err, re.M)
    assert "the loss is nan at step 4, at a learning rate of 0.0003, on the clips " in line
    assert f"{', '.join(clips_of(home, 4))}. {tmp_path}/run/last.ckpt is from before" in line
    checkpoint = load(tmp_path / "run" / "last.ckpt")
    assert checkpoint["global_step"] == IN_EPOCH
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_weights_that_are_not_finite_are_not_saved_though_the_loss_is(
    home, whole, tmp_path, monkeypatch
):
    def step(optimizer, closure):
        loss = original(optimizer, closure)
        optimizer.param_groups[0]["params"][0].data.view(-1)[0] = math.inf
        return loss

    original = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", step)
    changed = {"run_dir": tmp_path / "run", "max_steps": 1}
    with pytest.raises(DivergedError, match="weights.* are not finite at step 0"):
        train(config_of(home, **LIMITS | changed))
    assert not list(tmp_path.rglob("*.ckpt"))


# --resume auto.


@pytest.fixture
def auto(home, tmp_path, caplog):
    """Call the same command until so many steps; give what it came to and what it said."""

    def call(n_steps, **changed):
        changed = {"max_steps": n_steps, "run_dir": tmp_path / "auto", "resume": "auto"} | changed
        caplog.clear()
        with caplog.at_level(logging.INFO, "clmr"):
            return train(config_of(home, **LIMITS | changed)), caplog.text

    return call


def test_resume_auto_starts_anew_and_then_goes_on_by_the_same_command(whole, auto):
    first, said = auto(2)
    assert first.n_steps == 2
    assert "resume " not in said
    second, said = auto(N_STEPS)
    assert f"resume    {first.last}" in said
    assert same(state(second.run_dir), state(whole.run_dir))


@pytest.mark.parametrize("damage", ["truncated", "missing", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(whole, auto, damage):
    first, _ = auto(2, save_every_n_steps=1)
    if damage == "missing":  # as if it was killed between the two renames
        first.last.unlink()
    else:
        whole_file = first.last.read_bytes()
        first.last.write_bytes(whole_file[: len(whole_file) // 2] if damage == "truncated" else b"")
    before = first.run_dir / "last-1.ckpt"
    step = torch.load(before, weights_only=True)["global_step"]
    assert step in (1, 2)  # an epoch's end writes its last step once more
    second, said = auto(N_STEPS)
    assert (f"{first.last} is not a checkpoint, is damaged" in said) == (damage != "missing")
    assert f"resume    {before}" in said
    assert same(state(second.run_dir), state(whole.run_dir))


def test_when_every_checkpoint_is_damaged_nothing_is_trained(whole, auto):
    first, _ = auto(2)
    for path in (paths := list(first.run_dir.glob("*.ckpt"))):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint of .* can be read") as error:
        auto(3)
    assert all(str(path) in str(error.value) for path in paths)
    assert all(path.read_bytes() == b"" for path in paths)


def test_resume_auto_begins_with_a_given_checkpoint_and_then_with_its_own(whole, auto, tmp_path):
    first, _ = auto(2, run_dir=tmp_path / "other")
    second, said = auto(3, checkpoint_path=first.last)
    assert second.run_dir == tmp_path / "auto"
    _, said = auto(4, checkpoint_path=first.last)
    assert f"resume    {second.last}" in said


def test_resume_auto_without_a_folder_is_refused(home, whole):
    with pytest.raises(ConfigError, match="--resume auto .*: name it by --run_dir"):
        train(config_of(home, resume="auto"))


def test_only_last_has_one_before_it(tmp_path):
    for name in ("best.ckpt", "last.ckpt"):
        for number in (1, 2):
            WholeCheckpoints().save_checkpoint({"number": number}, tmp_path / name)
    found = {path.name: torch.load(path)["number"] for path in tmp_path.iterdir()}
    assert found == {"best.ckpt": 2, "last.ckpt": 2, "last-1.ckpt": 1}
