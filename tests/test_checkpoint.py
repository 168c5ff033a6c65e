"""Checkpoints: ours, those of CLMR's releases, and files that are none."""

import pickle
import re
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from clmr.checkpoint import load_encoder, load_weights, read_checkpoint
from clmr.checkpoint_io import WholeCheckpoints
from clmr.config import Config
from clmr.encoders import ENCODERS, SampleCNN, SampleCNNSmall
from clmr.errors import CheckpointError, ConfigError
from clmr.modules import ContrastiveLearning

pytestmark = [
    pytest.mark.filterwarnings("ignore:Detected pickle protocol"),  # torch's
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),  # Lightning's
    pytest.mark.filterwarnings("ignore:.*no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    pytest.mark.filterwarnings("ignore:.*self.log.*logger"),
]

WINDOW = 59_049


def randomized(encoder):
    """An encoder whose weights and statistics are other than those of any new one."""
    generator = torch.Generator().manual_seed(0)
    for value in encoder.state_dict().values():
        if value.is_floating_point():
            value.copy_(0.05 + 0.1 * torch.rand(value.shape, generator=generator))
        else:
            value.fill_(123)
    return encoder.eval()


@pytest.fixture(scope="module")
def released():
    """What a released encoder has learned: weights by the names of CLMR's SampleCNN."""
    return randomized(SampleCNN()).state_dict()


def prefixed(weights, *prefixes):
    return OrderedDict((p + name, value) for p in prefixes for name, value in weights.items())


HEAD = {"fc.weight": torch.zeros(50, 512), "fc.bias": torch.zeros(50)}
PROJECTOR = {
    "projector.0.weight": torch.zeros(512, 512),
    "projector.2.weight": torch.zeros(64, 512),
}


def by_lightning(weights, **content):
    """CLMR's second release: Lightning 1.1, whose callbacks are kept by their class."""
    return {
        "epoch": 10_000,
        "global_step": 160_000,
        "pytorch-lightning_version": "1.1.4",
        "callbacks": {
            ModelCheckpoint: {"best_model_score": torch.tensor(2.5), "best_model_path": "x.ckpt"},
            EarlyStopping: {"wait_count": 0},
        },
        "optimizer_states": [],
        "lr_schedulers": [],
        "hyper_parameters": {"audio_length": WINDOW, "sample_rate": 22_050, "gpus": 1},
        # The encoder is kept twice, as the module's and as its SimCLR model's.
        "state_dict": weights,
        **content,
    }


FORMATS = {
    "first release": lambda w: prefixed(w, "encoder.") | PROJECTOR,
    "first release with a head": lambda w: prefixed(w | HEAD, "encoder.") | PROJECTOR,
    "second release": lambda w: by_lightning(
        prefixed(w, "encoder.", "model.encoder.") | prefixed(PROJECTOR, "model.")
    ),
    "second release with a head": lambda w: by_lightning(
        prefixed(w | HEAD, "model.encoder.") | prefixed(PROJECTOR, "model.")
    ),
    "bare": lambda w: OrderedDict(w),
    "bare with a head": lambda w: OrderedDict(w | HEAD),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_clmr_gives_its_encoder_bit_for_bit(name, released, tmp_path):
    torch.save(FORMATS[name](released), tmp_path / "clmr.pt")
    encoder = load_encoder(tmp_path / "clmr.pt")
    assert type(encoder) is SampleCNN
    assert not encoder.training
    found = encoder.state_dict()
    assert found.keys() == released.keys()
    assert all(torch.equal(found[name], value) for name, value in released.items())


def test_the_encoder_of_the_simclr_model_counts_where_there_are_two(released, tmp_path):
    other = {name: value + 1 for name, value in released.items()}
    weights = prefixed(other, "encoder.") | prefixed(released, "model.encoder.")
    torch.save(by_lightning(weights), tmp_path / "clmr.ckpt")
    found = load_encoder(tmp_path / "clmr.ckpt").state_dict()
    assert all(torch.equal(found[name], value) for name, value in released.items())


@pytest.mark.parametrize("name", ENCODERS)
def test_our_own_checkpoint_gives_the_encoder_that_was_trained(name, tmp_path):
    torch.manual_seed(0)
    module = ContrastiveLearning(Config(encoder=name, batch_size=2, seed=3))
    pcm = torch.randint(-(2**12), 2**12, (2, 2, WINDOW), dtype=torch.int16)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader([pcm], batch_size=None))
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    encoder = load_encoder(tmp_path / "last.ckpt")
    x = 0.1 * torch.randn(2, 1, WINDOW)
    with torch.no_grad():
        assert torch.equal(encoder(x), module.model.encoder.eval()(x))
    assert read_checkpoint(tmp_path / "last.ckpt").settings == module.config.to_dict()


def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    def half(content, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    path = tmp_path / "run" / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"a": torch.ones(2)}, path)
    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        WholeCheckpoints().save_checkpoint({"a": torch.zeros(2)}, path)
    assert torch.equal(read_checkpoint(path).weights["a"], torch.ones(2))
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_not_there_is_refused_with_where_to_get_one(tmp_path):
    expected = re.escape(f"there is no checkpoint {tmp_path}/last.ckpt") + ".*main.py"
    with pytest.raises(CheckpointError, match=expected):
        load_encoder(tmp_path / "last.ckpt")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_encoder(tmp_path)


def a_text(path):
    path.write_text("batch_size: 48\n")


def nothing(path):
    path.write_bytes(b"")


def a_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("clmr.txt", "not a checkpoint")


def a_half(path):
    torch.save({"encoder.sequential.0.0.weight": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-2000])


def a_half_of_an_old_one(path):
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-2000])


def random_bytes(path):
    path.write_bytes(torch.randint(256, (5000,), dtype=torch.uint8).numpy().tobytes())


@pytest.mark.parametrize(
    "write", [a_text, nothing, a_zip, a_half, a_half_of_an_old_one, random_bytes]
)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(write, tmp_path):
    write(tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError) as error:
        load_encoder(tmp_path / "last.ckpt")
    message = str(error.value)
    assert message.startswith(f"{tmp_path}/last.ckpt is not a checkpoint, is damaged")
    assert len(message.splitlines()) == 1


def test_no_damage_whatever_is_taken_for_a_bug_of_ours(tmp_path):
    torch.save({"a.b": torch.ones(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "old.pt").read_bytes()
    refused = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=4):
            damaged[place] = rng.integers(256)
        (tmp_path / "damaged.pt").write_bytes(damaged)
        try:
            read_checkpoint(tmp_path / "damaged.pt")
        except CheckpointError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("content", [[1, 2], 3, {"state_dict": 1}, {"a": "b"}, torch.zeros(3)])
def test_a_file_without_a_network_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="holds no network: expected a dict of weights"):
        load_encoder(tmp_path / "last.ckpt")


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("where", ["weights", "settings", "pickle"])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(where, released, tmp_path):
    trap = Trap(tmp_path / "it-ran")
    content = {
        "weights": released | {"encoder.x": trap},
        "settings": by_lightning(released, hyper_parameters={"x": trap}),
        "pickle": trap,
    }[where]
    if where == "pickle":
        (tmp_path / "bad.ckpt").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(CheckpointError, match="holds more than weights and settings"):
        load_encoder(tmp_path / "bad.ckpt")
    assert not (tmp_path / "it-ran").exists()
    with suppress(RuntimeError):  # the trap does work, where code is let run
        torch.load(tmp_path / "bad.ckpt", weights_only=False)
    assert (tmp_path / "it-ran").exists()


def test_another_network_is_refused_with_at_most_ten_differences(tmp_path):
    torch.save(SampleCNNSmall().state_dict(), tmp_path / "small.pt")
    with pytest.raises(CheckpointError) as error:
        load_encoder(tmp_path / "small.pt")
    first, *lines, last = str(error.value).splitlines()
    assert first == f"{tmp_path}/small.pt holds another network than SampleCNN:"
    assert len(lines) == 10
    # The small one has 70 tensors, the other 77. Of the 70 all have another shape but the 10
    # counters of batches, and 5 vectors of the layer that has 256 channels in both.
    assert last == f"  and {7 + 70 - 10 - 5 - 10} more"
    assert lines[0] == "  missing: sequential.10.0.weight"


def test_a_name_too_many_and_another_shape_are_named(tmp_path):
    head = torch.nn.Linear(3, 2)
    with pytest.raises(CheckpointError) as error:
        load_weights(head, {"weight": torch.zeros(5, 3), "bais": torch.zeros(2)}, "head.ckpt")
    assert str(error.value).splitlines() == [
        "head.ckpt holds another network than Linear:",
        "  missing: bias",
        "  unknown: bais",
        "  weight: [5, 3], expected [2, 3]",
    ]


def test_weights_that_do_not_fit_leave_the_network_as_it_was():
    head = torch.nn.Linear(3, 2)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    with pytest.raises(CheckpointError):
        load_weights(head, {"weight": torch.ones(2, 3)}, "head.ckpt")
    assert all(torch.equal(head.state_dict()[name], value) for name, value in before.items())


def test_an_encoder_that_is_not_known_here_is_refused(released, tmp_path):
    content = by_lightning(prefixed(released, "model.encoder."), hyper_parameters={"encoder": "x"})
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ConfigError, match="unknown encoder 'x'; known: sample_cnn"):
        load_encoder(tmp_path / "last.ckpt")
