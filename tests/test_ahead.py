"""Reading ahead: the same batches in the same order, so many of them, and no thread left behind."""

import os
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from fixtures_store import write_store
from torch.utils.data import DataLoader

from clmr.ahead import N_AHEAD, THREAD_NAME, ReadAhead, read_ahead
from clmr.slices import CropSampler, Slices

ROOT = Path(__file__).parents[1]
CROP = 50
SECONDS = 30  # within which whatever is waited for has come


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"), [300, 120, 50, 75, 200, 51, 400, 90])


def loader(kind, store, **options):
    sampler = CropSampler(np.arange(8), store.n_samples, CROP, batch_size=2, seed=1)
    return kind(Slices(store, CROP), sampler=sampler, batch_size=None, **options)


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


def numbers(n, read, fails_at=None):
    """0 to n - 1, each noted in `read` when it is read, and by which thread."""
    for number in range(n):
        read.append((number, threading.current_thread().name))
        if number == fails_at:
            raise OSError("the disk is gone")
        yield number


def wait_until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_and_their_order_are_those_of_a_loader_that_does_not_read_ahead(store, workers):
    ours, plain = loader(ReadAhead, store, num_workers=workers), loader(DataLoader, store)
    assert len(ours) == len(plain) == 4
    for epoch in range(3):
        for each in (ours, plain):
            each.sampler.set_epoch(epoch)
        expected = list(plain)
        found = list(ours)
        assert len(found) == 4
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_where_it_starts_is_settled_when_it_is_asked_for_as_with_processes(store):
    ours, plain = loader(ReadAhead, store), loader(DataLoader, store)
    for each in (ours, plain):
        each.sampler.start_at(6)
    batches = iter(ours)
    ours.sampler.set_epoch(0)  # as Lightning does before it takes the first batch
    assert all(torch.equal(a, b) for a, b in zip(batches, list(plain), strict=True))


def test_the_global_generator_is_used_as_without_a_thread(store):
    def drawn_after(kind):
        torch.manual_seed(0)
        list(loader(kind, store))
        return torch.rand(1)

    assert torch.equal(drawn_after(ReadAhead), drawn_after(DataLoader))


def test_the_next_ones_are_read_by_a_thread_without_being_asked_for_and_no_more():
    read = []
    batches = read_ahead(numbers(10, read))
    for number in range(10):
        assert next(batches) == number
        expected = min(number + 1 + N_AHEAD, 10)
        wait_until(lambda expected=expected: len(read) >= expected)
        time.sleep(0.01)  # in which one too many would be read
        assert [n for n, _ in read] == list(range(expected))
    assert list(batches) == []
    assert all(name.startswith(THREAD_NAME) for _, name in read)


def test_an_error_comes_after_the_batches_before_it_with_its_own_traceback():
    found, batches = [], read_ahead(numbers(10, [], fails_at=3))
    with pytest.raises(OSError, match="the disk is gone") as error:
        found.extend(batches)
    assert found == [0, 1, 2]
    assert "numbers" in [frame.name for frame in traceback.extract_tb(error.tb)]
    assert reading_threads() == []


@pytest.mark.parametrize("n_taken", [0, 1, 9, 10])
def test_no_thread_is_left_however_many_batches_are_taken(n_taken):
    batches = read_ahead(numbers(10, []))
    for _ in range(n_taken):
        next(batches)
    assert len(reading_threads()) == (n_taken > 0)
    del batches
    assert reading_threads() == []


def test_no_thread_is_left_after_ctrl_c():
    def interrupted():
        for number in read_ahead(numbers(10, [])):
            if number == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reading_threads() == []


class Stopped(pl.LightningModule):
    """Fails, or just ends, in the second step of an epoch of four."""

    def __init__(self, error=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.error, self.seen = error, []

    def training_step(self, pcm, batch_idx):
        self.seen.append(len(reading_threads()))
        if self.error and batch_idx == 1:
            raise self.error
        return self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated")
@pytest.mark.parametrize("error", [None, OSError("no")])
def test_training_that_ends_within_an_epoch_leaves_no_thread(store, error):
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    module = Stopped(error)
    if error:
        with pytest.raises(OSError, match="no"):
            trainer.fit(module, loader(ReadAhead, store))
    else:
        trainer.fit(module, loader(ReadAhead, store))
    assert module.seen == [1, 1]
    assert reading_threads() == []


def test_a_program_that_ends_within_an_epoch_ends():
    program = """
import sys, time
from clmr.ahead import read_ahead
batches = read_ahead(iter(lambda: time.sleep(0.05), "never"))
next(batches)
sys.exit(7)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (7, b"")


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set")
def test_memory_is_pinned_for_the_gpu_of_the_thread_that_asks(store, monkeypatch):
    chosen = []  # as threads are: each begins with the first GPU
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(
        torch.cuda,
        "set_device",
        lambda device: chosen.append((device, threading.current_thread().name[: len(THREAD_NAME)])),
    )
    assert len(list(loader(ReadAhead, store, pin_memory=True))) == 4
    assert chosen == [(3, THREAD_NAME)]
    list(loader(ReadAhead, store))
    assert len(chosen) == 1
