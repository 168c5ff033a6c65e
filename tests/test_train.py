"""Pretraining, in short runs on a folder of a few files."""

import logging
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from fixtures_runs import (
    SAMPLE_RATE,
    TRAIN,
    VALID,
    config_of,
    curve,
    environment,
    events_of,
    load,
    same,
    settings,
    weights,
)
from fixtures_runs import write_music as write
from simclr.modules import NT_Xent

from clmr.command import run
from clmr.config import load_config
from clmr.datamodule import ContrastiveDataModule
from clmr.datasets import AudioFolder
from clmr.errors import CheckpointError, ConfigError
from clmr.modules import ContrastiveLearning
from clmr.modules.contrastive_learning import TRAIN as TRAIN_STREAM
from clmr.store import PcmStore
from clmr.train import train

pytestmark = [  # Lightning's, which the commands do not show
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*could not find the monitored key"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
]

ROOT = Path(__file__).parents[1]
STEPS_IN_EPOCH = len(TRAIN) // 3
PLAIN = (str, int, float, bool, type(None))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with music, where the store and the runs will be."""
    home = tmp_path_factory.mktemp("home")
    write(home / "music", TRAIN + VALID)
    return home


@pytest.fixture(scope="module")
def whole(home):
    """A run of three epochs."""
    return train(config_of(home, max_epochs=3, run_dir=home / "whole"))


@pytest.fixture(scope="module")
def half(home):
    """The same run, stopped after two epochs."""
    return train(config_of(home, max_epochs=2, run_dir=home / "half"))


@pytest.fixture(scope="module")
def resumed(home, half):
    """That run, resumed to the end of the third epoch; its folder is not named again."""
    return train(config_of(home, max_epochs=3, checkpoint_path=half.last))


@pytest.fixture
def no_fit(monkeypatch):
    """Everything but the training itself."""
    monkeypatch.setattr(pl.Trainer, "fit", lambda *args, **kwargs: None)


# What a run leaves behind.


def test_the_loss_is_logged_at_every_step_and_starts_near_chance(home, whole):
    n_steps = 3 * STEPS_IN_EPOCH
    loss = curve(home / "whole", "Train/loss_step")
    assert sorted(loss) == list(range(n_steps))
    assert whole.n_steps == n_steps
    # Cosines of projections are in [-1, 1], so that the loss of 2B views at temperature t is
    # within 2 / t of chance, log(2B - 1).
    assert all(abs(value - math.log(2 * 3 - 1)) < 2 / 0.5 for value in loss.values())
    by_epoch = curve(home / "whole", "Train/loss_epoch")
    means = [
        sum(loss[step] for step in range(first, first + STEPS_IN_EPOCH)) / STEPS_IN_EPOCH
        for first in range(0, n_steps, STEPS_IN_EPOCH)
    ]
    assert list(by_epoch.values()) == pytest.approx(means, rel=1e-5)


def test_learning_rate_throughput_and_validation_loss_are_logged(home, whole):
    rate = curve(home / "whole", "lr-Adam")
    assert list(rate.values()) == pytest.approx([3e-4] * 3 * STEPS_IN_EPOCH)
    throughput = curve(home / "whole", "Train/clips_per_second")
    assert len(throughput) == 3 * STEPS_IN_EPOCH
    assert min(throughput.values()) > 0
    assert len(curve(home / "whole", "Valid/loss")) == 3


def test_the_views_can_be_heard(home, whole):
    events = events_of(home / "whole")
    for name in ("views/i", "views/j"):
        sounds = events.Audio(name)
        assert [sound.step for sound in sounds] == [0, STEPS_IN_EPOCH, 2 * STEPS_IN_EPOCH]
        assert {sound.sample_rate for sound in sounds} == {SAMPLE_RATE}
        assert {sound.length_frames for sound in sounds} == {59_049}
    assert events.Audio("views/i")[0].encoded_audio_string != (
        events.Audio("views/j")[0].encoded_audio_string
    )


def test_the_settings_are_shown_and_can_be_given_again(home, whole):
    (text,) = events_of(home / "whole").Tensors("settings/text_summary")
    table = text.tensor_proto.string_val[0].decode()
    config = config_of(home, max_epochs=3, run_dir=home / "whole")
    for name, value in config.to_dict().items():
        assert f"| {name} | {value} |" in table
    assert load_config(["--config", str(home / "whole" / "hparams.yaml")]) == config


def test_the_last_and_the_best_checkpoint_are_kept(home, whole):
    assert whole.last == home / "whole" / "last.ckpt"
    assert whole.best == home / "whole" / "best.ckpt"
    assert load(whole.last)["global_step"] == 3 * STEPS_IN_EPOCH
    valid = curve(home / "whole", "Valid/loss")
    assert whole.best_valid_loss == pytest.approx(min(valid.values()), rel=1e-6)
    best_step = min(valid, key=valid.get)
    assert load(whole.best)["global_step"] == best_step + 1


def test_a_checkpoint_holds_plain_values_and_the_settings(home, whole):
    checkpoint = load(whole.last)  # refuses whatever is no tensor and no plain value
    config = config_of(home, max_epochs=3, run_dir=home / "whole")
    assert checkpoint["hyper_parameters"] == config.to_dict()
    assert all(type(value) in PLAIN for value in checkpoint["hyper_parameters"].values())


def test_training_changes_every_weight(home, whole, half):
    before, after = weights(half), weights(whole)
    assert [name for name in after if torch.equal(before[name], after[name])] == []


def test_the_summary_says_what_was_done_and_what_comes_next(whole):
    lines = str(whole).splitlines()
    assert re.fullmatch(rf"trained   {3 * STEPS_IN_EPOCH} steps, [\d,.]+ clips/s", lines[0])
    assert f"best      {whole.best} (validation loss {whole.best_valid_loss:.4f})" in lines
    assert f"last      {whole.last}" in lines
    assert f"curves    tensorboard --logdir {whole.run_dir}" in lines
    assert lines[-1] == (
        f"next      python linear_evaluation.py --config {whole.run_dir}/hparams.yaml "
        f"--checkpoint_path {whole.last} --dataset <with labels> --dataset_dir <its folder>"
    )


def test_the_settings_kept_in_the_folder_are_those_of_the_run(home, whole):
    kept = load_config(["--config", f"{whole.run_dir}/hparams.yaml"])
    assert kept == config_of(home, max_epochs=3, run_dir=home / "whole")


# Resuming.


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_never_stopped(whole, resumed):
    assert same(weights(resumed), weights(whole))


def test_a_resumed_run_goes_on_in_its_folder_at_its_step(home, half, whole, resumed):
    assert resumed.run_dir == half.run_dir
    assert resumed.last == half.last
    found = curve(home / "half", "Train/loss_step")
    assert found == curve(home / "whole", "Train/loss_step")
    assert load(resumed.last)["epoch"] == load(whole.last)["epoch"]


def test_a_resumed_run_keeps_the_state_of_its_optimizer(whole, resumed):
    expected, found = (load(run.last)["optimizer_states"][0] for run in (whole, resumed))
    assert {state["step"].item() for state in found["state"].values()} == {3 * STEPS_IN_EPOCH}
    for state, other in zip(found["state"].values(), expected["state"].values(), strict=True):
        assert torch.equal(state["exp_avg_sq"], other["exp_avg_sq"])


def test_resuming_a_run_that_is_done_says_what_to_raise(home, resumed):
    before = weights(resumed)
    again = train(config_of(home, max_epochs=3, checkpoint_path=resumed.last))
    assert again.n_steps == 3 * STEPS_IN_EPOCH
    assert "already: raise --max_steps or --max_epochs" in str(again)
    assert same(weights(again), before)


def test_resuming_with_other_settings_is_refused_and_lists_them(home, whole):
    changed = {"temperature": 0.1, "batch_size": 2, "seed": 1, "augmentations": "reference"}
    free = {"max_epochs": 9, "log_every_n_steps": 5, "finetuner_mlp": 1, "augment_chunk": 4}
    config = config_of(home, checkpoint_path=whole.last, **changed, **free)
    with pytest.raises(CheckpointError) as error:
        train(config)
    listed = re.findall(r"^  --(\w+): (.*) in the checkpoint, (.*) now$", str(error.value), re.M)
    assert sorted(listed) == [
        ("augmentations", "clmr", "reference"),
        ("batch_size", "3", "2"), ("seed", "42", "1"), ("temperature", "0.5", "0.1"),
    ]  # fmt: skip
    assert f"--config {home}/whole/hparams.yaml" in str(error.value)


def test_resuming_from_a_checkpoint_of_another_program_is_refused(home, tmp_path):
    torch.save({"encoder.sequential.0.0.weight": torch.zeros(128, 1, 3)}, tmp_path / "clmr.pt")
    with pytest.raises(CheckpointError, match="no checkpoint of main.py"):
        train(config_of(home, checkpoint_path=tmp_path / "clmr.pt"))


def test_resuming_from_a_file_that_is_not_there_is_refused(home):
    with pytest.raises(CheckpointError, match=re.escape("no checkpoint nowhere/last.ckpt")):
        train(config_of(home, checkpoint_path="nowhere/last.ckpt"))


def test_a_new_run_never_writes_over_another(home, whole):
    before = weights(whole)
    with pytest.raises(ConfigError, match=re.escape(f"--checkpoint_path {whole.last}")):
        train(config_of(home, max_epochs=1, run_dir=whole.run_dir))
    assert same(weights(whole), before)


# How long, and how it is seeded.


@pytest.fixture(scope="module")
def one_step(home):
    return train(config_of(home, max_steps=1, max_epochs=9, run_dir=home / "one-step"))


def test_max_steps_ends_within_an_epoch_and_the_last_step_is_kept(one_step):
    assert STEPS_IN_EPOCH > 1
    assert one_step.n_steps == 1
    assert load(one_step.last)["global_step"] == 1


def test_a_run_that_ends_before_its_first_point_of_a_curve_says_its_speed_all_the_same(home):
    # Two of the three steps of an epoch, and a point every ten.
    changed = {"batch_size": 2, "max_steps": 2, "log_every_n_steps": 10}
    trained = train(config_of(home, run_dir=home / "two-steps", **changed))
    assert re.search(r"^trained +2 steps, [\d.]+ clips/s$", str(trained), re.M)


def test_max_steps_and_max_epochs_end_the_run_whichever_comes_first(home):
    by_steps = train(config_of(home, max_steps=1, max_epochs=3, run_dir=home / "by-steps"))
    assert by_steps.n_steps == 1
    by_epochs = train(config_of(home, max_steps=99, max_epochs=1, run_dir=home / "by-epochs"))
    assert by_epochs.n_steps == STEPS_IN_EPOCH


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({}, "until 200 epochs"),
        ({"max_steps": 1500}, "until 1,500 steps"),
        ({"max_epochs": 7}, "until 7 epochs"),
        ({"max_steps": 15, "max_epochs": 7}, "until 15 steps or 7 epochs"),
    ],
)
@pytest.mark.usefixtures("no_fit", "whole")
def test_it_says_at_the_start_when_it_will_end(home, limits, said, caplog, tmp_path):
    with caplog.at_level(logging.INFO, "clmr"):
        train(config_of(home, run_dir=tmp_path / "run", **limits))
    (line,) = (line for line in caplog.messages if line.startswith("pretrain"))
    assert line.endswith(said)
    assert f"{len(TRAIN)} clips, {len(VALID)} to validate, batch 3 on 1 CPU, precision 32" in line


def test_a_seed_gives_the_same_weights_and_another_seed_others(home, one_step):
    again = train(config_of(home, max_steps=1, max_epochs=9, run_dir=home / "again"))
    other = train(config_of(home, max_steps=1, max_epochs=9, run_dir=home / "other", seed=43))
    assert same(weights(again), weights(one_step))
    name = "model.projector.2.weight"
    apart = (weights(other)[name] - weights(one_step)[name]).abs().max()
    assert apart > 0.01  # a step of Adam at 3e-4 cannot do that: they began with other weights


def test_loading_in_other_processes_changes_nothing(home, one_step):
    changed = {"run_dir": home / "workers", "workers": 1}
    with_workers = train(config_of(home, max_steps=1, max_epochs=9, **changed))
    assert same(weights(with_workers), weights(one_step))


# The reference chain.


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of theirs
def test_the_reference_chain_gives_one_loss_in_every_run_on_any_number_of_workers(
    home, one_step, caplog
):
    losses, hints = [], []
    for number, workers in enumerate((0, 0, 2)):
        changed = {"augmentations": "reference", "workers": workers, "max_steps": 2}
        caplog.clear()
        with caplog.at_level(logging.INFO, "clmr"):
            train(config_of(home, run_dir=home / f"reference-{number}", **changed))
        losses.append(curve(home / f"reference-{number}", "Train/loss_step"))
        hints.append(sum("--workers N runs them on N" in line for line in caplog.messages))
    assert sorted(losses[0]) == [0, 1]
    assert losses[0] == losses[1] == losses[2]
    assert losses[0][0] != curve(one_step.run_dir, "Train/loss_step")[0]
    assert hints == [1, 1, 0]


# Data that is not there, or not enough.


def test_it_preprocesses_where_that_has_not_been_done_and_says_so(tmp_path, capsys, caplog):
    write(tmp_path / "music", TRAIN[:2])
    argv = settings(tmp_path, max_steps=1, run_dir=tmp_path / "run")
    with caplog.at_level(logging.INFO, "clmr"):
        assert run(train, argv) == 0
    assert f"no finished PCM store at {tmp_path}/store: preprocessing first" in caplog.messages
    assert (tmp_path / "store" / "index.parquet").is_file()
    # Neither is there a file to validate on, nor a batch of three.
    assert "too few clips in the valid split: no validation loss and no best.ckpt" in caplog.text
    assert "2 clips to train on are fewer than a batch of 3" in caplog.text
    assert not (tmp_path / "run" / "best.ckpt").exists()
    assert (tmp_path / "run" / "last.ckpt").is_file()
    summary = capsys.readouterr().out
    assert "trained   1 steps" in summary
    assert "best" not in summary


def test_one_clip_alone_is_refused(tmp_path):
    write(tmp_path / "music", TRAIN[:1])
    with pytest.raises(ConfigError, match="1 clips to train on .*: contrast needs two"):
        train(config_of(tmp_path, run_dir=tmp_path / "run"))


def test_a_batch_of_one_clip_is_refused(home, whole):
    with pytest.raises(ConfigError, match="--batch_size 1 has no second clip"):
        train(config_of(home, batch_size=1, run_dir=home / "batch-1"))


@pytest.mark.parametrize("kind", ["dataset", "encoder", "loss", "optimizer", "schedule"])
def test_an_unknown_name_is_refused_with_those_that_there_are(home, kind, capsys):
    assert run(train, settings(home, **{kind: "nothing"})) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: unknown {kind} 'nothing'")
    assert "known: " in err


def test_a_crop_that_is_too_short_for_the_encoder_is_refused(home, capsys):
    assert run(train, settings(home, audio_length=59_048)) == 1
    assert "at least 59049 samples, got 59048" in capsys.readouterr().err


def test_more_gpus_than_there_are_is_refused(home, capsys):
    assert run(train, settings(home, accelerator="gpu", gpus=99)) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: --gpus 99")
    assert len(err.splitlines()) == 1


# Ctrl-C.


def interrupt_the_first_step(monkeypatch, n_times):
    def step(module, *args):
        loss = original(module, *args)
        for _ in range(n_times):
            signal.raise_signal(signal.SIGINT)
        return loss

    original = ContrastiveLearning.training_step
    monkeypatch.setattr(ContrastiveLearning, "training_step", step)


def test_ctrl_c_ends_the_run_after_the_step_in_which_it_comes(home, one_step, monkeypatch, capsys):
    interrupt_the_first_step(monkeypatch, 1)
    handler = signal.getsignal(signal.SIGINT)
    argv = settings(home, max_steps=1 + STEPS_IN_EPOCH, run_dir=home / "ctrl-c")
    assert run(train, argv) == 130
    assert "interrupted: saved" in capsys.readouterr().err
    checkpoint = load(home / "ctrl-c" / "last.ckpt")
    assert checkpoint["global_step"] == 1
    assert same(checkpoint["state_dict"], weights(one_step))
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_second_ctrl_c_does_not_wait_for_the_end_of_the_step(home, whole, monkeypatch):
    interrupt_the_first_step(monkeypatch, 2)
    assert run(train, settings(home, max_epochs=1, run_dir=home / "ctrl-c-c")) == 130
    assert load(home / "ctrl-c-c" / "last.ckpt")["global_step"] == 0


# Processes of their own.


@pytest.mark.parametrize("n_processes", [1, 2])
def test_ctrl_c_saves_and_says_how_to_go_on_and_that_works(home, whole, n_processes):
    run_dir = home / f"interrupted-{n_processes}"
    argv = settings(home, max_epochs=500, run_dir=run_dir, gpus=n_processes, workers=1)
    process = subprocess.Popen(
        [sys.executable, "main.py", *argv],
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not (run_dir / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the reading process as well
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "trained" not in out
    assert "Traceback" not in err
    stopped_at = load(run_dir / "last.ckpt")["global_step"]
    assert stopped_at > 0
    (said,) = re.findall(rf"interrupted: saved {run_dir}/last\.ckpt; to go on: (.*)", err)
    program, script, *how = shlex.split(said)
    assert (program, script) == ("python", "main.py")
    assert run(train, [*how, "--gpus", "1", "--max_steps", str(stopped_at + 1)]) == 0
    assert load(run_dir / "last.ckpt")["global_step"] == stopped_at + 1


def test_two_processes_train_together_and_speak_once(home, whole):
    run_dir = home / "two"
    argv = settings(home, gpus=2, max_steps=2, run_dir=run_dir)
    done = subprocess.run(
        [sys.executable, "main.py", *argv],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line in ("trained   2 steps", "curves    ", "next      "):
        assert len(re.findall(line, done.stdout)) == 1
    assert len(re.findall("^pretrain .* batch 3 on 2 CPU", done.stderr, re.M)) == 1
    assert load(run_dir / "last.ckpt")["global_step"] == 2
    loss = curve(run_dir, "Train/loss_step")
    assert sorted(loss) == [0, 1]
    assert loss[0] == pytest.approx(loss_of_two_parts(home), rel=1e-4)


def loss_of_two_parts(home):
    """SimCLR's own loss of the first batch of six, of which two devices augment a half each."""
    config = config_of(home)
    pl.seed_everything(config.seed, verbose=False)
    module = ContrastiveLearning(config)
    dataset = AudioFolder(config.dataset_dir)
    data = ContrastiveDataModule(config, PcmStore(config.store_dir), dataset.clips())
    views = []
    for rank in range(2):
        place = SimpleNamespace(global_rank=rank, world_size=2)
        module.trainer = data.trainer = place
        pcm = next(iter(data.train_dataloader()))
        views.append(module.views(pcm, TRAIN_STREAM, 0))
    with torch.no_grad():
        _, _, z_i, z_j = module.model(*(torch.cat(parts) for parts in zip(*views, strict=True)))
    return NT_Xent(6, config.temperature, world_size=1)(z_i, z_j).item()
