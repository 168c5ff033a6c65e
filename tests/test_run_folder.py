"""A run's folder: whole after a crash, wherever it is moved to, and of use without its machine."""

import csv
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from fixtures_runs import TRAIN, VALID, config_of, events_of, load, same, weights, write_music

from clmr.checkpoint import load_encoder
from clmr.config import load_config
from clmr.modules import ContrastiveLearning
from clmr.train import train

pytestmark = [  # Lightning's, which the commands do not show
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*could not find the monitored key"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended"),
]

ROOT = Path(__file__).parents[1]
N_STEPS = 7  # two epochs of three steps, and a step
LIMITS = {"batch_size": 2, "max_steps": N_STEPS}
# What a stop changes: the clock, and the mean of an epoch, which is of the steps since then.
TIMED = "Train/clips_per_second"
VARIES = {TIMED, "Train/loss_epoch"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with music, where the store will be."""
    home = tmp_path_factory.mktemp("home")
    write_music(home / "music", TRAIN + VALID)
    return home


@pytest.fixture(scope="module")
def whole(home):
    """A run that was never stopped."""
    return train(config_of(home, **LIMITS, run_dir=home / "whole"))


def crash_in_step(monkeypatch, step):
    def training_step(module, *args):
        if module.global_step == step:
            raise OSError("the machine is gone")
        return original(module, *args)

    original = ContrastiveLearning.training_step
    monkeypatch.setattr(ContrastiveLearning, "training_step", training_step)


@pytest.fixture(scope="module", params=[5, 1], ids=["in an epoch", "before any checkpoint"])
def crashed(request, home, whole):
    """That run, gone in a step after its last checkpoint, and started again."""
    folder = home / f"crashed-{request.param}"
    changed = LIMITS | {"run_dir": folder, "resume": "auto", "save_every_n_steps": 2}
    with pytest.MonkeyPatch.context() as monkeypatch:
        crash_in_step(monkeypatch, request.param)
        with pytest.raises(OSError, match="gone"):
            train(config_of(home, **changed))
    return train(config_of(home, **changed))


def rows_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [
            (int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)
        ]


def points_of_csv(folder):
    return sorted(
        (step, name, 0 if name in VARIES else value) for step, name, value in rows_of(folder)
    )


def points_of_tensorboard(folder):
    events = events_of(folder)
    return sorted(
        (event.step, name, 0 if name in VARIES else event.value)
        for name in set(events.Tags()["scalars"]) - {"epoch"}  # logged with each group of a step
        for event in events.Scalars(name)
    )


def test_the_table_holds_what_tensorboard_holds(whole):
    found = {(step, name): value for step, name, value in rows_of(whole.run_dir) if name != "epoch"}
    events = events_of(whole.run_dir)
    names = {"Train/loss_step", "Train/loss_epoch", "Valid/loss", "lr-Adam", TIMED}
    assert set(events.Tags()["scalars"]) - {"epoch"} == names
    expected = {(e.step, name): e.value for name in names for e in events.Scalars(name)}
    assert found == pytest.approx(expected, rel=1e-6)
    for each in ("Train/loss_step", "lr-Adam", TIMED):
        assert [step for step, name in found if name == each] == list(range(N_STEPS))


def test_after_a_crash_no_point_of_a_curve_is_doubled_or_missing(whole, crashed):
    for points_of in (points_of_csv, points_of_tensorboard):
        assert points_of(crashed.run_dir) == points_of(whole.run_dir)
    assert same(weights(crashed), weights(whole))


def test_it_says_with_what_each_part_was_run(crashed):
    first, second = yaml.safe_load_all((crashed.run_dir / "environment.yaml").read_text())
    assert first["first_step"] == 0
    assert second["first_step"] == (4 if crashed.run_dir.name == "crashed-5" else 0)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    for part in (first, second):
        assert part["git"]["commit"] == (commit.stdout.strip() or None)
        assert (part["seed"], part["precision"], part["world_size"]) == (42, "32", 1)
        assert len(part["devices"]) == 1


def test_a_folder_that_was_moved_goes_on_where_it_is_now(home, whole, tmp_path):
    before, now = tmp_path / "before", tmp_path / "elsewhere" / "now"
    first = train(config_of(home, **LIMITS | {"max_steps": 4}, run_dir=before))
    best = load(first.best)["global_step"]
    now.parent.mkdir()
    shutil.move(before, now)
    argv = ["--config", f"{now}/hparams.yaml", f"--max_steps={N_STEPS}"]
    resumed = train(load_config([*argv, f"--checkpoint_path={now}/last.ckpt"]))
    assert not before.exists()
    assert resumed.run_dir == now
    assert same(weights(resumed), weights(whole))
    # The best of both parts, as of a run that stayed where it was.
    assert resumed.best == now / "best.ckpt"
    assert resumed.best_valid_loss == whole.best_valid_loss
    assert load(resumed.best)["global_step"] == load(whole.best)["global_step"] >= best


@pytest.mark.parametrize("loss", [0.0, 99.0])
def test_in_a_moved_folder_only_a_better_checkpoint_takes_the_place_of_the_best(
    home, tmp_path, monkeypatch, loss
):
    def validation_step(module, crops, batch_idx):
        module.log("Valid/loss", loss, on_epoch=True)

    before, now = tmp_path / "before", tmp_path / "now"
    train(config_of(home, **LIMITS | {"max_steps": 3}, run_dir=before))
    shutil.move(before, now)
    monkeypatch.setattr(ContrastiveLearning, "validation_step", validation_step)
    changed = LIMITS | {"max_steps": 6, "run_dir": now}
    train(config_of(home, **changed, checkpoint_path=now / "last.ckpt"))
    assert load(now / "best.ckpt")["global_step"] == (6 if loss == 0 else 3)


def test_a_run_that_branches_off_has_a_best_of_its_own(home, whole, tmp_path, monkeypatch):
    def validation_step(module, crops, batch_idx):
        module.log("Valid/loss", 99.0, on_epoch=True)

    monkeypatch.setattr(ContrastiveLearning, "validation_step", validation_step)
    changed = LIMITS | {"max_steps": 9, "run_dir": tmp_path / "branch"}
    branch = train(config_of(home, **changed, checkpoint_path=whole.last))
    assert branch.best == tmp_path / "branch" / "best.ckpt"
    assert load(branch.best)["global_step"] == 9
    assert branch.best_valid_loss == 99


def strings_in(value):
    if isinstance(value, dict):
        for key, part in value.items():
            yield from strings_in(key)
            yield from strings_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from strings_in(part)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_of_its_machine_a_checkpoint_holds_nothing_but_the_settings_that_were_given(whole, name):
    checkpoint = load(whole.run_dir / name)
    settings = checkpoint.pop("hyper_parameters")
    assert str(whole.run_dir) in settings.values()
    texts = list(strings_in(checkpoint))
    assert f"{Path(name).stem}.ckpt" in texts
    assert [text for text in texts if Path(text).is_absolute()] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what happens without a GPU")
def test_a_checkpoint_of_a_gpu_loads_and_goes_on_without_one(home, whole, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:  # what torch writes of where a tensor was
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        first = train(config_of(home, **LIMITS | {"max_steps": 4}, run_dir=folder))
    with pytest.raises(RuntimeError, match="on a CUDA device"):
        load(first.last)
    encoder = load_encoder(first.last).state_dict()
    assert {value.device.type for value in encoder.values()} == {"cpu"}
    resumed = train(config_of(home, **LIMITS, checkpoint_path=first.last))
    assert same(weights(resumed), weights(whole))
