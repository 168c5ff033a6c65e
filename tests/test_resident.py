"""A store held in memory, against the same store mapped."""

import multiprocessing
import os
import re
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from fixtures_runs import TRAIN, VALID, config_of, settings, write_music
from fixtures_store import samples_of, write_store

from clmr import resident
from clmr.command import run
from clmr.config import Config
from clmr.datamodule import ContrastiveDataModule
from clmr.datasets import Clip
from clmr.device import free_bytes
from clmr.errors import ConfigError
from clmr.resident import ResidentStore, gather
from clmr.store import PcmStore
from clmr.train import train

pytestmark = [  # Lightning's, which the commands do not show
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*could not find the monitored key"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended"),
]

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CROP = 50
CPU = torch.device("cpu")
# Three clips to a shard, so that the second and the last one hold nothing to train on.
LENGTHS = [300, 80, 200, 90, 60, 75, 51, 130, 400, 99, 70, 222, 64]
SPLITS = (
    *("train", "train", "valid"), *("test", "test", "test"),
    *("valid", "train", "train"), *("train", "valid", "train"), "test",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"), LENGTHS)


def data_of(store, **changed):
    clips = [Clip(f"clip{k}", Path(f"{k}"), split, None) for k, split in enumerate(SPLITS)]
    known = {"dataset": "audio", "audio_length": CROP, "batch_size": 2, "accelerator": "cpu"}
    return ContrastiveDataModule(Config(**(known | changed)), store, clips)


class Recorder(pl.LightningModule):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, pcm, batch_idx):
        self.seen.append(pcm)
        self.n_processes = len(multiprocessing.active_children())
        return self.weight

    def validation_step(self, pcm, batch_idx):
        self.seen.append(pcm)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches_of(data):
    """Every batch of two epochs, of both splits, as a module gets them."""
    recorder = Recorder()
    pl.Trainer(
        accelerator=data.accelerator, devices=1, max_epochs=2, logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False,
    ).fit(recorder, data)  # fmt: skip
    return recorder.seen, recorder.n_processes


@pytest.mark.parametrize(
    ("accelerator", "store_device"),
    [("cpu", "cpu"), pytest.param("gpu", "cpu", marks=gpu), pytest.param("gpu", "cuda", marks=gpu)],
)
def test_every_batch_of_both_splits_is_bit_for_bit_that_of_the_mapped_store(
    store, accelerator, store_device
):
    mapped, _ = batches_of(data_of(store))
    others = len(multiprocessing.active_children())
    changed = {"accelerator": accelerator, "store_device": store_device, "workers": 2}
    held, n_processes = batches_of(data_of(store, **changed))
    assert n_processes == others  # there is nothing to read
    assert len(mapped) == len(held) == 2 * (6 // 2 + 3 // 2)
    for a, b in zip(mapped, held, strict=True):
        assert (b.shape, b.dtype) == ((2, 2, CROP), torch.int16)
        assert b.device.type == {"cpu": "cpu", "gpu": "cuda"}[accelerator]
        assert torch.equal(a, b.cpu())


def test_only_the_shards_that_are_needed_are_loaded_and_in_pieces(store, monkeypatch):
    monkeypatch.setattr(resident, "PIECE", 64)
    needed = [0, 2, 3]
    pcm = np.concatenate([samples_of(k, n) for k, n in enumerate(LENGTHS) if k // 3 in needed])
    found = ResidentStore(store, np.array([11, 0, 6]), CPU, progress=False)
    assert np.array_equal(found.pcm, pcm)
    for clip in (0, 2, 6, 8, 11):
        starts = torch.from_numpy(found.first[[clip]] + [[LENGTHS[clip] - CROP]])
        crops = found.crops(starts, CROP)
        assert np.array_equal(crops[0, 0], samples_of(clip, LENGTHS[clip])[-CROP:])


def test_while_it_is_loaded_there_is_one_piece_beside_it(tmp_path, monkeypatch):
    store = write_store(tmp_path, [500_000, 500_000])
    monkeypatch.setattr(resident, "PIECE", 20_000)
    tracemalloc.start()  # which sees numpy's memory, and not torch's
    ResidentStore(store, np.arange(2), CPU, progress=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * 2 * 20_000 + 100_000 < 2 * 1_000_000 / 5


def test_samples_beyond_the_range_of_32_bits_are_found(tmp_path):
    n = 2**32 + 2**20  # [samples], in a file that is a hole but for a few
    pcm = np.memmap(tmp_path / "hole.pcm", "<i2", mode="w+", shape=n)
    starts = np.array([[0, 2**31 - 5], [2**31 + 7, 2**32 + 3]])
    for number, start in enumerate(starts.flat):
        pcm[start : start + 3] = [1 + number, 10 + number, 100 + number]
    found = gather(torch.from_numpy(pcm), torch.from_numpy(starts), 3)
    assert found[..., 0].tolist() == [[1, 2], [3, 4]]
    assert found[..., 2].tolist() == [[100, 101], [102, 103]]


@gpu
def test_samples_beyond_the_range_of_32_bits_are_found_on_a_gpu():
    pcm = torch.zeros(2**32 + 2**20, dtype=torch.int16, device="cuda")  # 8.6 GB
    starts = torch.tensor([[0, 2**31 - 5], [2**31 + 7, 2**32 + 3]], device="cuda")
    for number, start in enumerate(starts.flatten().tolist()):
        pcm[start : start + 3] = torch.tensor([1 + number, 10 + number, 100 + number])
    found = gather(pcm, starts, 3)
    assert found[..., 0].tolist() == [[1, 2], [3, 4]]
    assert found[..., 2].tolist() == [[100, 101], [102, 103]]


def test_clips_beyond_the_range_of_32_bits_have_their_first_sample_there(monkeypatch):
    whole = np.broadcast_to(np.int16(0), 2**31)  # takes no memory
    three = SimpleNamespace(
        shards=np.array([0, 1, 2], np.int32), offsets=np.array([5, 6, 7]), shard=lambda _: whole
    )
    monkeypatch.setattr(ResidentStore, "_load", lambda *_: None)
    monkeypatch.setattr(resident, "free_bytes", lambda _: None)
    found = ResidentStore(three, np.arange(3), torch.device("meta"), progress=False)
    assert found.first.tolist() == [5, 2**31 + 6, 2**32 + 7]
    assert len(found.pcm) == 3 * 2**31


@pytest.mark.parametrize(("device", "remedy"), [("cpu", "mapped"), ("cuda:1", "cpu or mapped")])
def test_what_does_not_fit_is_refused_with_what_it_needs_and_what_is_free(
    device, remedy, monkeypatch
):
    whole = np.broadcast_to(np.int16(0), 2**31)  # 4.29 GB
    two = SimpleNamespace(shards=np.array([0, 1]), offsets=np.zeros(2, int), shard=lambda _: whole)
    asked = []
    monkeypatch.setattr(resident, "free_bytes", lambda device: asked.append(device) or 5 * 10**9)
    expected = (
        f"--store_device {device[:4].rstrip(':')}: the store needs 8.59 GB, and 5 GB are "
        f"free on {device}: give --store_device {remedy}"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        ResidentStore(two, np.arange(2), torch.device(device))
    assert asked == [torch.device(device)]


def test_a_run_whose_store_does_not_fit_ends_with_one_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(resident, "free_bytes", lambda _: 10**6)
    write_music(tmp_path / "music", TRAIN + VALID)
    assert run(train, settings(tmp_path, store_device="cpu", run_dir=tmp_path / "run")) == 1
    n_bytes = 2 * sum(PcmStore(tmp_path / "store").n_samples)
    (line,) = re.findall("^error: .*", capsys.readouterr().err, re.M)
    assert f"needs {n_bytes / 1e9:.3g} GB, and 0.001 GB are free on cpu" in line
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_free_memory_of_this_machine_is_some_and_not_more_than_it_has():
    all_of_it = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert all_of_it / 1000 < free_bytes(CPU) < all_of_it


def test_a_gpus_memory_without_a_gpu_is_refused(tmp_path, capsys):
    write_music(tmp_path / "music", TRAIN)
    assert run(train, settings(tmp_path, store_device="cuda")) == 1
    err = capsys.readouterr().err
    assert "error: --store_device cuda holds the store in the memory of the GPU" in err
    assert "give --accelerator gpu, or --store_device mapped or cpu" in err


@pytest.mark.parametrize("store_device", ["cpu", "cuda"])
def test_crops_that_are_augmented_where_they_are_read_have_to_be_read(
    store, store_device, monkeypatch
):
    monkeypatch.setattr("clmr.datamodule.check_store_device", lambda *_: None)
    changed = {"augmentations": "reference", "store_device": store_device, "transforms_delay": 0}
    with pytest.raises(ConfigError, match="give --store_device mapped, or --augmentations clmr"):
        data_of(store, **changed)


def test_crops_cut_in_host_memory_for_a_gpu_are_pinned_on_their_way(store, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x) or x)
    data = data_of(store, store_device="cpu")
    data.resident = ResidentStore(store, np.arange(3), CPU, progress=False)
    starts = torch.tensor([[3, 9]])
    there = data.transfer_batch_to_device(starts, torch.device("meta"), 0)  # instead of a GPU
    assert (there.device.type, there.shape) == ("meta", (1, 2, CROP))
    assert torch.equal(pinned[0], data.resident.crops(starts, CROP))
    data.transfer_batch_to_device(starts, CPU, 0)
    assert len(pinned) == 1


def test_a_run_gives_the_same_weights_and_goes_on_with_the_store_elsewhere(tmp_path):
    def weights(folder):
        return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]

    write_music(tmp_path / "music", TRAIN + VALID)
    mapped, held = tmp_path / "mapped", tmp_path / "held"
    train(config_of(tmp_path, max_steps=3, run_dir=mapped))
    changed = {"store_device": "cpu", "run_dir": held}
    train(config_of(tmp_path, max_steps=1, **changed))
    train(config_of(tmp_path, max_steps=2, **changed, checkpoint_path=held / "last.ckpt"))
    changed["store_device"] = "mapped"
    train(config_of(tmp_path, max_steps=3, **changed, checkpoint_path=held / "last.ckpt"))
    expected, found = weights(mapped), weights(held)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
