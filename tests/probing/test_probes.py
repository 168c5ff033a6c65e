"""Probes during pretraining, in short runs on a folder of a few files."""

import logging
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
from fixtures_runs import TRAIN, VALID, config_of, curve, events_of, load, same, settings, state
from fixtures_runs import write_music as write

from clmr.command import run
from clmr.datamodule import ContrastiveDataModule
from clmr.datasets import DATASETS, AudioFolder
from clmr.errors import ConfigError
from clmr.finite import StopOnNaN
from clmr.modules import ContrastiveLearning
from clmr.probing.early_stop import EarlyStop
from clmr.probing.probe_set import ProbeSet
from clmr.probing.probes import Probes
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

ROOT = Path(__file__).parents[2]
IN_EPOCH = len(TRAIN) // 2
N_STEPS = 5 * IN_EPOCH + 1
RUN = {"batch_size": 2, "max_steps": N_STEPS, "learning_rate": 0.003}
PROBED = RUN | {"probe_every": 2, "early_stopping": "effective_rank"}
STEPS = [*range(0, N_STEPS, 2 * IN_EPOCH), N_STEPS]  # 0, 6, 12 and the end
LABEL_FREE = ("alignment", "uniformity", "effective_rank")
SCORES = ("knn_roc_auc", "knn_pr_auc", "linear_roc_auc", "linear_pr_auc")


class Labelled(AudioFolder):
    """The same folder with tags: two that can be scored, and one that only a clip of train has."""

    tags = ("harp", "choir", "only in training")

    def clips(self):
        def labels(clip):
            number = int(re.search(r"\d+", clip.id)[0])
            tags = [number in (0, 1, 2, 33), number in (2, 5, 7, 35), number == 1]
            return np.array(tags, dtype=np.uint8)

        return [replace(clip, labels=labels(clip)) for clip in super().clips()]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with music, where the store will be."""
    home = tmp_path_factory.mktemp("home")
    write(home / "music", TRAIN + VALID)
    return home


@pytest.fixture(scope="module")
def plain(home):
    """A run without probes."""
    return train(config_of(home, **RUN, run_dir=home / "plain"))


@pytest.fixture(scope="module")
def whole(home):
    """The same run with probes, which is patient to its end."""
    return train(config_of(home, **PROBED, run_dir=home / "whole"))


class Unlucky(Labelled):
    """With tags that no clip to validate on has."""

    def clips(self):
        return [
            replace(clip, labels=clip.labels * np.uint8(clip.split == "train"))
            for clip in super().clips()
        ]


def probes(folder, names=LABEL_FREE):
    return {name: curve(folder, f"Probe/{name}") for name in names}


def end_of(values, patience, lower=False):
    """The step at which a curve, by step, has had no new best so many times; 0 is the untrained."""
    steps = [step for step in sorted(values) if step]
    for step in steps:
        seen = [values[s] * (-1 if lower else 1) for s in steps if s <= step]
        if len(seen) - 1 - seen.index(max(seen)) >= patience:
            return step
    return None


# Curves.


def test_a_run_with_probes_has_the_weights_of_one_without_bit_for_bit(plain, whole):
    assert same(state(whole.run_dir), state(plain.run_dir))
    for name in ("Train/loss_step", "Valid/loss"):
        assert curve(whole.run_dir, name) == curve(plain.run_dir, name)


def test_it_is_probed_before_the_first_step_every_so_many_epochs_and_at_the_end(plain, whole):
    for values in probes(whole.run_dir).values():
        assert sorted(values) == STEPS
        assert all(np.isfinite(value) for value in values.values())
    assert not [tag for tag in events_of(plain.run_dir).Tags()["scalars"] if "Probe" in tag]
    assert not [tag for tag in events_of(whole.run_dir).Tags()["scalars"] if "_auc" in tag]


@pytest.mark.parametrize("step", [0, N_STEPS])
def test_a_point_is_of_the_weights_at_its_step(home, whole, step):
    config = config_of(home, **PROBED)
    pl.seed_everything(config.seed, verbose=False)
    module = ContrastiveLearning(config)
    if step:
        module.load_state_dict(load(whole.run_dir / "last.ckpt")["state_dict"])
    clips = AudioFolder(config.dataset_dir).clips()
    figures = ProbeSet(ContrastiveDataModule(config, PcmStore(home / "store"), clips), ()).measure(
        module
    )
    for name, values in probes(whole.run_dir).items():
        assert values[step] == pytest.approx(figures[name], rel=1e-6)


def test_where_there_are_labels_their_scores_are_curves_too(
    home, plain, tmp_path, monkeypatch, caplog
):
    monkeypatch.setitem(DATASETS, "audio", Labelled)
    changed = {"probe_every": 1, "max_steps": 1, "run_dir": tmp_path}
    with caplog.at_level(logging.INFO, "clmr"):
        train(config_of(home, **RUN | changed))
    for values in probes(tmp_path, LABEL_FREE + SCORES).values():
        assert sorted(values) == [0, 1]
    text = "every 1 epochs, of 7 train and 3 valid clips; kNN and a linear probe on 2 of 3 tags"
    assert text in caplog.text


@pytest.mark.parametrize(("n_steps", "end"), [(4, ("1.333", "4")), (6, ("2", "6"))])
def test_each_probe_is_a_line_with_its_figures(home, plain, tmp_path, caplog, n_steps, end):
    changed = {"probe_every": 1, "max_steps": n_steps, "run_dir": tmp_path}
    with caplog.at_level(logging.INFO, "clmr"):
        train(config_of(home, **RUN | changed))
    lines = [line for line in caplog.messages if line.startswith("probe ")]
    epochs = [re.search(r"epoch ([\d.]+), step (\d+): ", line).groups() for line in lines]
    assert epochs == [("0", "0"), ("1", "3"), end]
    for name, values in probes(tmp_path).items():
        assert f"{name} {values[3]:.4g}" in lines[1]
    text = "7 train and 3 valid clips; no kNN and no linear probe: the dataset has no labels"
    assert text in caplog.text


# Dead runs.


@pytest.mark.parametrize(
    ("value", "said"), [(0, "projections of all clips are nearly alike"), (np.inf, "not finite")]
)
def test_a_run_that_has_died_is_warned_of_at_its_step_and_leaves_no_nan(
    home, plain, tmp_path, monkeypatch, caplog, value, said
):
    def on_train_batch_end(module, *_):
        module.model.projector[2].weight.data.fill_(value)

    monkeypatch.setattr(ContrastiveLearning, "on_train_batch_end", on_train_batch_end)
    monkeypatch.setattr("clmr.probing.probes.SETTLED_STEPS", 1)
    monkeypatch.setattr(StopOnNaN, "_check", lambda *_, **__: None)  # which would end it first
    changed = {"probe_every": 1, "max_steps": 1, "run_dir": tmp_path}
    with caplog.at_level(logging.INFO, "clmr"):
        train(config_of(home, **RUN | changed))
    (warning,) = [r.message for r in caplog.records if "looks dead" in r.message]
    assert "at step 1: " in warning
    assert said in warning
    assert "a lower --learning_rate" in warning
    found = probes(tmp_path)["uniformity"]
    assert sorted(found) == ([0, 1] if np.isfinite(value) else [0])
    assert all(np.isfinite(point) for point in found.values())


# Early stopping.


@pytest.mark.parametrize("watched", ["effective_rank", "uniformity"])
def test_it_ends_where_the_curve_has_had_no_new_best_and_is_a_success(
    home, plain, tmp_path, watched, capsys
):
    folder = tmp_path / "run"
    changed = {"early_stopping": watched, "probe_every": 1, "early_stopping_patience": 1}
    argv = settings(home, **RUN | changed | {"max_steps": 99, "run_dir": folder, "resume": "auto"})
    assert run(train, argv) == 0
    out = capsys.readouterr().out
    values = curve(folder, f"Probe/{watched}")
    end = end_of(values, patience=1, lower=watched == "uniformity")
    assert end == max(values) == load(folder / "last.ckpt")["global_step"]
    assert end < 99
    best_step = sorted(values)[-2]
    (line,) = re.findall("^stopped .*", out, re.M)
    assert f"{watched} was no better in 1 probes than {values[best_step]:.4g}" in line
    assert f"at step {best_step}; to go on: a larger --early_stopping_patience" in line
    assert f"trained   {end} steps, " in out
    # The same command again ends at once, and one that does not ask for it goes on.
    assert run(train, argv) == 0
    again = capsys.readouterr().out
    assert f"trained   {end} steps already\n{line}\n" in again
    assert load(folder / "last.ckpt")["global_step"] == end
    assert run(train, [*argv, "--early_stopping=never", f"--max_steps={end + 1}"]) == 0
    assert load(folder / "last.ckpt")["global_step"] == end + 1


def test_neither_the_untrained_network_nor_the_end_of_the_run_counts(whole):
    callbacks = load(whole.run_dir / "last.ckpt")["callbacks"]
    (saved,) = [of for of in callbacks.values() if "probed_at" in of]
    values = probes(whole.run_dir)["effective_rank"]
    counted = {step: value for step, value in values.items() if step not in (0, N_STEPS)}
    assert saved["probed_at"] == max(counted)
    assert saved["best_step"] == max(counted, key=counted.get)
    assert saved["n_since"] == sum(step > saved["best_step"] for step in counted)


# Resuming.


@pytest.mark.parametrize("n_steps", [6, 8])
def test_a_resumed_run_is_probed_at_the_same_epochs_and_ends_alike(
    home, whole, tmp_path, monkeypatch, n_steps
):
    def training_step(module, *args):
        loss = original(module, *args)
        if module.global_step == n_steps - 1 and left:
            signal.raise_signal(left.pop())
        return loss

    left, original = [signal.SIGINT], ContrastiveLearning.training_step
    monkeypatch.setattr(ContrastiveLearning, "training_step", training_step)
    argv = settings(home, **PROBED, run_dir=tmp_path / "run", resume="auto")
    assert run(train, argv) == 130  # 6: in validation, before its probe
    assert load(tmp_path / "run" / "last.ckpt")["global_step"] == n_steps
    assert max(probes(tmp_path / "run")["uniformity"]) < n_steps
    assert run(train, argv) == 0
    assert probes(tmp_path / "run") == probes(whole.run_dir)
    assert same(state(tmp_path / "run"), state(whole.run_dir))
    saved, expected = (
        load(folder / "last.ckpt")["callbacks"]["Probes"]
        for folder in (tmp_path / "run", whole.run_dir)
    )
    assert saved == expected


@pytest.mark.parametrize(
    ("curve", "n_clips", "patience", "goes_on"),
    [
        ("effective_rank", 10, 3, True),
        ("effective_rank", 10, 7, True),
        ("uniformity", 10, 3, False),
        ("effective_rank", 11, 3, False),
    ],
)
def test_only_a_best_of_the_same_curve_and_clips_is_gone_on_with(curve, n_clips, patience, goes_on):
    def probes_of(curve, n_clips, patience):
        clips = SimpleNamespace(places=SimpleNamespace(clips=[0] * n_clips))
        return Probes(clips, every=1, early_stop=EarlyStop(curve, patience))

    saved = probes_of("effective_rank", 10, 3)
    for step, value in zip((6, 12, 18), (30, 40, 20), strict=True):
        saved.early_stop.see(step, value)
    resumed = probes_of(curve, n_clips, patience)
    resumed.load_state_dict(saved.state_dict())
    seen = {"best": 40, "best_step": 12, "n_since": 1} if goes_on else {}
    assert resumed.early_stop == EarlyStop(curve, patience, **seen)


# What cannot be watched.


@pytest.mark.parametrize(
    ("dataset", "changed", "reason"),
    [
        (AudioFolder, {"early_stopping": "uniformity"}, "this one has none: give --probe_every"),
        (
            AudioFolder,
            {"early_stopping": "knn_roc_auc", "probe_every": 1},
            "there will be no such curve, as --dataset audio has no labels; give effective_rank",
        ),
        (
            Unlucky,
            {"early_stopping": "linear_pr_auc", "probe_every": 1},
            "as none of 3 tags has, among 7 train and among 3 valid clips, one with it and one",
        ),
    ],
)
def test_a_curve_that_will_not_be_there_is_refused_before_training(
    home, plain, tmp_path, monkeypatch, dataset, changed, reason
):
    monkeypatch.setitem(DATASETS, "audio", dataset)
    with pytest.raises(ConfigError, match=re.escape(reason)) as error:
        train(config_of(home, **RUN | changed, run_dir=tmp_path / "run"))
    assert str(error.value).startswith(f"--early_stopping {changed['early_stopping']}")
    assert not (tmp_path / "run").exists()


def test_alignment_alone_cannot_be_watched_as_a_collapsed_encoder_has_the_best():
    with pytest.raises(ConfigError, match="early_stopping: got 'alignment', allowed: never, unif"):
        config_of(Path("none"), probe_every=1, early_stopping="alignment")


def test_without_clips_to_validate_on_the_rest_is_measured(tmp_path):
    write(tmp_path / "music", TRAIN[:3])
    changed = {"probe_every": 1, "max_steps": 1, "run_dir": tmp_path / "run"}
    train(config_of(tmp_path, **RUN | changed))
    assert sorted(probes(tmp_path / "run")["effective_rank"]) == [0, 1]


# Processes.


def test_two_processes_are_probed_once_and_end_at_one_step(tmp_path):
    folder = tmp_path / "run"
    write(tmp_path / "music", (*TRAIN, *VALID))
    changed = {"gpus": 2, "probe_every": 1, "max_steps": 99, "run_dir": folder}
    stop = {"early_stopping": "uniformity", "early_stopping_patience": 2}
    done = subprocess.run(
        [sys.executable, "main.py", *settings(tmp_path, **RUN | changed | stop)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    values = curve(folder, "Probe/uniformity")
    end = end_of(values, patience=2, lower=True)
    assert max(values) == end == load(folder / "last.ckpt")["global_step"] < 99
    assert len(re.findall("^stopped ", done.stdout, re.M)) == 1
    assert len(re.findall(r"probe +epoch 0, step 0:", done.stderr)) == 1
    # Before the first step the network is that of one process, and so are its figures.
    alone = tmp_path / "alone"
    train(config_of(tmp_path, **RUN | {"probe_every": 9, "max_steps": 1, "run_dir": alone}))
    assert values[0] == pytest.approx(curve(alone, "Probe/uniformity")[0], rel=1e-6)
