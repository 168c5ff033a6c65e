"""Which clips are trained and validated on, and what the loaders hand over."""

import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from fixtures_store import samples_of, write_store

from clmr.augmentations import AUGMENTATIONS
from clmr.augmentations.reference import ReferenceChain
from clmr.config import Config
from clmr.datamodule import ContrastiveDataModule
from clmr.datasets import Clip
from clmr.errors import ConfigError
from clmr.slices import CropSampler
from clmr.splits import Split, check_audio_length, select_split

pytestmark = [  # Lightning's, which the commands do not show
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*no `validation_step`"),
]

CROP = 50
LENGTHS = {"a": 300, "b": 49, "c": 50, "d": 200, "e": 90, "f": 60, "g": 75, "h": 80, "i": 20}
SPLITS = {"a": "train", "b": "train", "c": "valid", "d": "train", "e": "valid", "f": "test",
          "g": "train", "h": "train", "i": "train"}  # fmt: skip
NUMBER = {name: number for number, name in enumerate(LENGTHS)}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(
        tmp_path_factory.mktemp("store"), list(LENGTHS.values()), ids=list(LENGTHS)
    )


def clips(labelled=False):
    """Of the dataset: in another order than in the store, and with one that it does not hold."""
    names = [*reversed(LENGTHS), "not decoded"]
    return [
        Clip(name, Path(name), SPLITS.get(name, "train"),
             np.array([number, number % 2], dtype=np.uint8) if labelled else None)
        for number, name in enumerate(names)
    ]  # fmt: skip


def module(store, trainer=None, **changed):
    known = {"dataset": "audio", "audio_length": CROP, "batch_size": 2}
    data = ContrastiveDataModule(Config(**(known | changed)), store, clips())
    data.trainer = trainer
    return data


def clip_of(crop):
    """Name of the clip that a crop is from, by its samples; they must be consecutive ones of it."""
    for name, number in NUMBER.items():
        whole = samples_of(number, LENGTHS[name])
        start = (int(crop[0]) - int(whole[0])) % 2**16
        if start + CROP <= len(whole) and np.array_equal(crop, whole[start : start + CROP]):
            return name
    raise AssertionError("of no clip")


def test_a_split_has_its_clips_with_their_own_labels(store):
    split = select_split(store, clips(labelled=True), "train", CROP)
    names = ["h", "g", "d", "a"]  # i and b are too short
    assert split.clips.tolist() == [NUMBER[name] for name in names]
    place = {clip.id: number for number, clip in enumerate(clips())}
    assert split.labels.tolist() == [[place[name], place[name] % 2] for name in names]
    assert split.labels.dtype == np.uint8


def test_clips_shorter_than_a_crop_are_left_out_and_counted(store, caplog):
    split = select_split(store, clips(), "train", CROP)
    assert split.clips.tolist() == [NUMBER[name] for name in "hgda"]
    (warning,) = caplog.messages
    assert warning == (
        "2 of 6 train clips are shorter than --audio_length 50 and are left out"
    )


def test_nothing_is_said_where_nothing_is_left_out(store, caplog):
    assert select_split(store, clips(), "valid", CROP).clips.tolist() == [NUMBER["e"], NUMBER["c"]]
    assert caplog.messages == []


@pytest.mark.parametrize("labelled", [False, True])
def test_a_split_without_clips_is_empty(store, labelled):
    split = select_split(store, clips(labelled), "none", CROP)
    assert len(split.clips) == len(split.labels) == 0


def test_without_labels_there_are_no_columns_of_them(store):
    assert select_split(store, clips(), "train", CROP).labels.shape == (4, 0)


def test_a_crop_longer_than_any_clip_is_refused_with_the_longest(store):
    check_audio_length(store, 300)
    for refuse in (check_audio_length, lambda store, n: module(store, audio_length=n)):
        with pytest.raises(ConfigError, match="longest has 300 samples; .* --audio_length 300"):
            refuse(store, 301)


@pytest.mark.parametrize(
    ("audio_length", "batch_size", "n_devices", "reason"),
    [
        (250, 48, 1, "^1 clips to train on .*, for 1 devices: contrast needs two"),
        (50, 1, 1, "--batch_size 1 has no second clip"),
        (50, 2, 5, "^4 clips to train on .*, for 5 devices"),
    ],
)
def test_too_few_clips_to_contrast_are_refused(
    store, audio_length, batch_size, n_devices, reason
):
    data = module(store, audio_length=audio_length, batch_size=batch_size)
    with pytest.raises(ConfigError, match=reason):
        data.check_enough_clips(n_devices)


@pytest.mark.parametrize(("batch_size", "n_devices"), [(4, 1), (2, 2), (1, 2), (1, 4)])
def test_enough_clips_are_not_refused(store, batch_size, n_devices, caplog):
    module(store, batch_size=batch_size).check_enough_clips(n_devices)
    assert "fewer" not in caplog.text


@pytest.mark.parametrize(("batch_size", "n_devices", "n"), [(48, 1, 4), (2, 3, 3)])
def test_fewer_clips_than_a_batch_are_a_warning_with_the_size_that_it_has(
    store, batch_size, n_devices, n, caplog
):
    module(store, batch_size=batch_size).check_enough_clips(n_devices)
    assert caplog.messages[-1] == (
        f"4 clips to train on are fewer than a batch of {batch_size * n_devices}: "
        f"every batch is of {n} clips"
    )


def test_a_loss_of_validation_needs_two_clips(store):
    assert module(store).can_validate(1)
    assert not module(store).can_validate(3)
    assert not module(store, audio_length=60).can_validate(1)


def test_batches_are_pairs_of_crops_of_the_clips_of_the_split(store):
    data = module(store)
    batches = list(data.train_dataloader())
    assert [(batch.shape, batch.dtype) for batch in batches] == [((2, 2, CROP), torch.int16)] * 2
    pairs = [[clip_of(view) for view in pair.numpy()] for batch in batches for pair in batch]
    assert all(i == j for i, j in pairs)
    assert sorted(i for i, _ in pairs) == ["a", "d", "g", "h"]


def test_validation_is_on_its_own_clips_and_the_same_every_time(store):
    data = module(store)
    (first,), (again,) = list(data.val_dataloader()), list(data.val_dataloader())
    assert [clip_of(pair[0].numpy()) for pair in first] == ["e", "c"]
    assert torch.equal(first, again)


def test_the_seed_decides_the_crops(store):
    def crops(seed):
        return torch.cat(list(module(store, seed=seed).train_dataloader()))

    assert torch.equal(crops(1), crops(1))
    assert not torch.equal(crops(1), crops(2))


def test_two_devices_have_the_halves_of_what_one_would_have(store):
    whole = list(module(store, batch_size=4).train_dataloader())
    halves = [
        list(module(store, SimpleNamespace(global_rank=rank, world_size=2)).train_dataloader())
        for rank in range(2)
    ]
    assert torch.equal(torch.cat([halves[0][0], halves[1][0]]), whole[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_reading_process_goes_on_after_a_signal_until_its_parent_ends(store, number):
    others = set(multiprocessing.active_children())
    batches = iter(module(store, workers=1, batch_size=1).train_dataloader())
    first = next(batches)
    (reader,) = set(multiprocessing.active_children()) - others
    os.kill(reader.pid, number)
    reader.join(timeout=0.5)
    assert len([first, *batches]) == 4  # more than are read in advance


# Augmented where they are read.

SHORT = {f"transforms_{name}": 0 for name in ("filters", "delay", "pitch", "reverb")}
REFERENCE = SHORT | {"augmentations": "reference", "transforms_gain": 1, "transforms_noise": 1}
of_theirs = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return torch.cat(list(loader))


@of_theirs
@pytest.mark.parametrize("workers", [0, 2])
def test_with_the_reference_chain_each_crop_is_augmented_by_its_seed(store, workers):
    data = module(store, workers=workers, **REFERENCE)
    probabilities = dict.fromkeys(AUGMENTATIONS, 0) | {"polarity": 0.8, "noise": 1, "gain": 1}
    chain = ReferenceChain(probabilities, 22_050, CROP)
    sampler = CropSampler(data.train.clips, store.n_samples[data.train.clips], CROP, 2, 42)
    for batch, places in zip(data.train_dataloader(), sampler, strict=True):
        assert batch.dtype == torch.float32
        for row, view in np.ndindex(2, 2):
            pcm = store.read(places.clips[row], places.starts[row, view], CROP)
            crop = torch.from_numpy(pcm / np.float32(2**15))[None]
            expected = chain(crop, int(places.seeds[row, view]))
            assert torch.equal(batch[row, view], expected[0])
            assert not torch.equal(batch[row, view], crop[0])


@of_theirs
def test_two_views_and_two_epochs_differ_even_of_clips_as_long_as_a_crop(store):
    data = module(store, audio_length=300, **REFERENCE)
    data.train = Split(np.array([NUMBER["a"]] * 2), np.zeros((2, 0), np.uint8))
    loader = data.train_dataloader()
    views = torch.cat([epoch_of(loader, epoch).flatten(0, 1) for epoch in (0, 1)])
    assert len(views.unique(dim=0)) == 2 * 2 * 2
    assert torch.equal(epoch_of(loader, 1).flatten(0, 1), views[4:])


@of_theirs
def test_validation_by_the_reference_chain_is_the_same_every_time(store):
    loader = module(store, **REFERENCE).val_dataloader()
    assert torch.equal(epoch_of(loader, 0), epoch_of(loader, 3))


@pytest.mark.parametrize(
    ("changed", "rank", "n_hints"),
    [
        (REFERENCE, 0, 1),
        (REFERENCE, 1, 0),
        (REFERENCE | {"workers": 0}, 0, 1),
        (REFERENCE | {"workers": 2}, 0, 0),
        ({}, 0, 0),
    ],
)
def test_that_workers_would_help_the_reference_chain_is_said_once(
    store, caplog, changed, rank, n_hints
):
    trainer = SimpleNamespace(global_rank=rank, world_size=2)
    data = module(store, trainer, **changed)
    with caplog.at_level("INFO", "clmr.datamodule"):
        data.train_dataloader()
        data.val_dataloader()
    assert sum("--workers N runs them on N" in line for line in caplog.messages) == n_hints


def test_crops_shorter_than_the_echo_of_the_reference_chain_are_refused(store):
    expected = (
        "--transforms_delay: got crops of 50 samples for one of 9922 at --sample_rate 22050; "
        "give --transforms_delay 0, or a longer --audio_length"
    )
    with pytest.raises(ConfigError, match=expected):
        module(store, **(REFERENCE | {"transforms_delay": 0.3}))


class Recorder(pl.LightningModule):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.epochs = {}

    def training_step(self, pcm, batch_idx):
        self.epochs.setdefault(self.current_epoch, []).append(pcm)
        return self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("workers", [0, 1])
def test_in_training_every_epoch_has_the_crops_of_its_number(store, workers):
    data, recorder = module(store, workers=workers), Recorder()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(recorder, data)
    sampler = CropSampler(data.train.clips, store.n_samples[data.train.clips], CROP, 2, 42)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        for found, places in zip(recorder.epochs[epoch], sampler, strict=True):
            expected = [
                [store.read(clip, start, CROP) for start in starts]
                for clip, starts in zip(places.clips, places.starts, strict=True)
            ]
            assert np.array_equal(found, np.array(expected))
    assert not torch.equal(recorder.epochs[0][0], recorder.epochs[1][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_goes_on_reads_from_its_step_on_and_then_whole_epochs(store, workers):
    straight = module(store, workers=0)
    n = straight.steps_in_epoch(1)
    assert n > 1
    expected = [list(epoch_of(straight.train_dataloader(), epoch).split(2)) for epoch in (1, 2)]
    data = module(store, workers=workers)
    data.n_steps_before = n + 1
    loader = data.train_dataloader()
    rest = list(loader)
    assert len(rest) == n - 1
    assert all(torch.equal(a, b) for a, b in zip(rest, expected[0][1:], strict=True))
    assert torch.equal(epoch_of(loader, 2), torch.cat(expected[1]))


def test_the_clips_of_a_step_are_those_of_all_devices(store):
    data = module(store, SimpleNamespace(global_rank=1, world_size=2), batch_size=2)
    sampler = CropSampler(data.train.clips, store.n_samples[data.train.clips], CROP, 4, 42)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        (places,) = sampler  # four clips that are long enough
        assert data.clips_at(epoch) == [store.ids[clip] for clip in places.clips]
