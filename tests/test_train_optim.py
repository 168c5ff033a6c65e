"""Optimizers, schedules and precision of whole runs."""

import math
import re
import signal

import pytest
import torch
from fixtures_runs import TRAIN, VALID, config_of, curve, load, settings, write_music
from simclr.modules import NT_Xent

from clmr.command import run
from clmr.errors import CheckpointError
from clmr.losses import NTXent
from clmr.modules import ContrastiveLearning
from clmr.optim import OPTIMIZERS
from clmr.train import train

pytestmark = [  # Lightning's, which the commands do not show
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*could not find the monitored key"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
]

# The names of the curves, of which those with two groups of parameters have two.
CURVES = {
    "adam": ["lr-Adam"],
    "adamw": ["lr-AdamW/pg1", "lr-AdamW/pg2"],
    "sgd": ["lr-SGD"],
    "lars": ["lr-Lars/pg1", "lr-Lars/pg2"],
}
# Of a rate of 0.02 with a warm-up of one step, in three: cosine is then at 0 and 90 degrees.
RATES = {"constant": [0, 0.02, 0.02], "cosine": [0, 0.02, 0.01]}
COSINE = {"schedule": "cosine", "warmup_steps": 1, "learning_rate": 0.02}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with music, where the store and the runs will be."""
    home = tmp_path_factory.mktemp("home")
    write_music(home / "music", TRAIN + VALID)
    return home


@pytest.mark.parametrize("schedule", RATES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_trains_by_every_schedule(home, optimizer, schedule):
    run_dir = home / f"{optimizer}-{schedule}"
    changed = COSINE | {"schedule": schedule, "optimizer": optimizer}
    assert run(train, settings(home, max_steps=3, run_dir=run_dir, **changed)) == 0
    for name in CURVES[optimizer]:
        assert list(curve(run_dir, name).values()) == pytest.approx(RATES[schedule])
    losses = curve(run_dir, "Train/loss_step")
    assert sorted(losses) == [0, 1, 2]
    assert all(math.isfinite(loss) for loss in losses.values())


def test_the_end_of_cosine_is_that_of_the_epochs_where_no_steps_are_given(home):
    run_dir = home / "epochs"  # two epochs of two steps
    train(config_of(home, max_epochs=2, run_dir=run_dir, **(COSINE | {"warmup_steps": 0})))
    expected = [0.02 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert list(curve(run_dir, "lr-Adam").values()) == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", ["adam", "lars"])
def test_a_resumed_run_has_the_rates_and_weights_of_one_that_was_never_stopped(
    home, monkeypatch, optimizer
):
    changed = COSINE | {"optimizer": optimizer, "max_steps": 5}
    whole = train(config_of(home, run_dir=home / f"whole-{optimizer}", **changed))
    run_dir = home / f"stopped-{optimizer}"
    with monkeypatch.context() as patched:
        stop_in_step(patched, 1)
        assert run(train, settings(home, run_dir=run_dir, **changed)) == 130
    assert load(run_dir / "last.ckpt")["global_step"] == 2
    resumed = train(config_of(home, checkpoint_path=run_dir / "last.ckpt", **changed))
    for name in CURVES[optimizer]:
        assert curve(run_dir, name) == curve(whole.run_dir, name)
        assert len(curve(run_dir, name)) == 5
    expected, found = (load(trained.last)["state_dict"] for trained in (whole, resumed))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def stop_in_step(monkeypatch, number):
    """As Ctrl-C does."""

    def step(module, *args):
        loss = original(module, *args)
        if module.global_step == number:
            signal.raise_signal(signal.SIGINT)
        return loss

    original = ContrastiveLearning.training_step
    monkeypatch.setattr(ContrastiveLearning, "training_step", step)


@pytest.fixture(scope="module")
def short(home):
    """One step in float32."""
    return train(config_of(home, max_steps=1, run_dir=home / "short", schedule="cosine"))


def test_resuming_with_another_optimizer_schedule_or_precision_is_refused(home, short):
    changed = {
        "optimizer": "lars", "momentum": 0.8, "schedule": "constant", "warmup_steps": 3,
        "precision": "bf16-mixed",
    }  # fmt: skip
    with pytest.raises(CheckpointError) as error:
        train(config_of(home, checkpoint_path=short.last, **changed))
    listed = re.findall(r"^  --(\w+): (.*) in the checkpoint, (.*) now$", str(error.value), re.M)
    assert listed == [
        ("optimizer", "adam", "lars"), ("momentum", "0.9", "0.8"),
        ("schedule", "cosine", "constant"), ("warmup_steps", "0", "3"),
        ("precision", "32", "bf16-mixed"),
    ]  # fmt: skip


def test_a_checkpoint_from_before_a_setting_existed_is_resumed_at_its_default(
    home, short, tmp_path
):
    older = load(short.last)
    del older["hyper_parameters"]["grad_cache_chunk"]
    torch.save(older, tmp_path / "last.ckpt")
    argv = {"checkpoint_path": tmp_path / "last.ckpt", "schedule": "cosine", "max_steps": 1}
    assert train(config_of(home, **argv)).n_steps == 1
    with pytest.raises(CheckpointError, match="--grad_cache_chunk: None in the checkpoint, 3 now"):
        train(config_of(home, **argv, grad_cache_chunk=3))


def test_to_compile_without_a_compiler_is_refused_before_there_is_a_run(
    home, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert run(train, settings(home, compile=1, run_dir=home / "compiled")) == 1
    assert capsys.readouterr().err.startswith("error: --compile 1 calls a compiler")
    assert not (home / "compiled").exists()


def test_a_cosine_is_resumed_to_its_own_end_only(home, short, capsys):
    argv = settings(home, max_steps=2, checkpoint_path=short.last, schedule="cosine")
    assert run(train, argv) == 1
    err = capsys.readouterr().err.strip()
    assert err.startswith("error: --schedule cosine spans the whole run: 1 steps in the checkpoint")
    assert len(err.splitlines()) == 1


def test_a_warmup_longer_than_the_run_is_refused_in_one_line(home, capsys):
    changed = COSINE | {"warmup_steps": 3, "max_steps": 3}
    assert run(train, settings(home, run_dir=home / "too-long", **changed)) == 1
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert last_line.startswith("error: --warmup_steps 3 leaves no step of the run's 3")


# Precision.


def test_bf16_gives_nearly_the_loss_of_float32_and_keeps_weights_in_float32(home, short):
    changed = {"precision": "bf16-mixed", "run_dir": home / "bf16", "schedule": "cosine"}
    mixed = train(config_of(home, max_steps=1, **changed))
    (expected,), (found,) = (
        curve(trained.run_dir, "Train/loss_step").values() for trained in (short, mixed)
    )
    # bfloat16 keeps 8 bits, 0.4 %, of each value, and cosines are divided by a temperature of 0.5.
    assert found != expected
    assert found == pytest.approx(expected, rel=0.02)
    checkpoint = load(mixed.last)
    state = [v for p in checkpoint["optimizer_states"][0]["state"].values() for v in p.values()]
    floats = [v for v in [*checkpoint["state_dict"].values(), *state] if v.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float32}


def test_in_bf16_the_encoder_computes_in_bf16_and_the_loss_does_not(home, monkeypatch):
    seen = []
    original = NTXent.forward

    def forward(loss, z_i, z_j):
        value = original(loss, z_i, z_j)
        seen.append((z_i.detach(), z_j.detach(), value.detach()))
        return value

    monkeypatch.setattr(NTXent, "forward", forward)
    train(config_of(home, max_steps=1, precision="bf16-mixed", run_dir=home / "dtypes"))
    z_i, z_j, found = seen[0]
    assert z_i.dtype == z_j.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    expected = NT_Xent(3, 0.5, world_size=1)(z_i.double(), z_j.double())
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_float32_is_no_tf32_unless_asked_for(home):
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    train(config_of(home, max_steps=1, run_dir=home / "exact"))
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("has_bf16", "chosen"), [(True, "bf16-mixed"), (False, "32")])
def test_auto_is_kept_with_the_run_as_what_it_was(home, has_bf16, chosen, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    trained = train(config_of(home, max_steps=1, precision="auto", run_dir=home / chosen))
    assert load(trained.last)["hyper_parameters"]["precision"] == chosen


def test_float16_on_the_cpu_is_refused(home, capsys):
    assert run(train, settings(home, precision="16-mixed", run_dir=home / "16")) == 1
    assert capsys.readouterr().err.startswith("error: --precision 16-mixed is for GPUs")
    assert not (home / "16").exists()
