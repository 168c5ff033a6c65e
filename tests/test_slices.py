"""Random crops and regular windows: what is covered, how often, and by whom."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from fixtures_store import samples_of, write_store
from torch.utils.data import DataLoader

from clmr.slices import CropSampler, Places, Slices, window_loader, window_places

CROP = 50


def sampler(n_clips=10, n_samples=200, batch_size=3, seed=0, **options):
    clips = np.arange(n_clips) + 100  # not the same as their places
    lengths = np.broadcast_to(n_samples, n_clips)
    return CropSampler(clips, lengths, CROP, batch_size, seed, **options)


def epoch_of(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return list(sampler)


def same(a, b):
    return len(a) == len(b) and all(
        np.array_equal(mine, other)
        for x, y in zip(a, b, strict=True)
        for mine, other in zip(x, y, strict=True)
    )


# Crops.


def test_every_clip_comes_once_an_epoch_but_for_those_that_do_not_fill_a_batch():
    left_out = Counter()
    for epoch in range(40):
        batches = epoch_of(sampler(), epoch)
        assert [len(batch.clips) for batch in batches] == [3, 3, 3]
        clips = np.concatenate([batch.clips for batch in batches])
        assert len(set(clips)) == 9
        left_out.update({*range(100, 110)} - set(clips.tolist()))
    assert len(left_out) == 10  # each comes in another epoch


def test_it_says_how_many_batches_there_are():
    for n_clips, batch_size, n_batches in ((10, 3, 3), (9, 3, 3), (2, 3, 1), (3, 3, 1), (7, 7, 1)):
        chosen = sampler(n_clips, batch_size=batch_size)
        assert len(chosen) == len(list(chosen)) == n_batches


def test_fewer_clips_than_a_batch_are_one_smaller_batch_of_all():
    (batch,) = sampler(n_clips=4, batch_size=48)
    assert sorted(batch.clips) == [100, 101, 102, 103]


def test_fewer_clips_than_a_batch_of_all_devices_are_shared_out_evenly():
    parts = [list(sampler(5, batch_size=4, rank=rank, world_size=2)) for rank in range(2)]
    assert [len(batch.clips) for part in parts for batch in part] == [2, 2]
    assert len({clip for part in parts for clip in part[0].clips.tolist()}) == 4


def test_crops_lie_within_their_clips_and_every_start_comes_as_often():
    n_starts, n_epochs, lengths = 21, 600, np.array([CROP, CROP + 20, CROP + 20])
    starts = {100: [], 101: [], 102: []}
    for epoch in range(n_epochs):
        (batch,) = epoch_of(sampler(3, lengths), epoch)
        assert batch.starts.shape == (3, 2)
        for clip, pair in zip(batch.clips.tolist(), batch.starts, strict=True):
            starts[clip].append(pair)
    assert np.unique(starts[100]).tolist() == [0]  # a clip of one crop
    both = np.concatenate([starts[101], starts[102]])  # [n, 2]
    values, counts = np.unique(both, return_counts=True)
    assert values.tolist() == list(range(n_starts))  # the last one included
    p = 1 / n_starts
    assert np.abs(counts / both.size - p).max() < 4 * math.sqrt(p * (1 - p) / both.size)


def test_the_two_crops_of_a_clip_are_independent():
    pairs = np.concatenate(
        [batch.starts for epoch in range(300) for batch in epoch_of(sampler(), epoch)]
    )
    correlation = np.corrcoef(pairs.T)[0, 1]
    assert abs(correlation) < 4 / math.sqrt(len(pairs))
    share_equal = (pairs[:, 0] == pairs[:, 1]).mean()
    assert share_equal == pytest.approx(1 / 151, abs=4 * math.sqrt(1 / 151 / len(pairs)))


def test_the_order_of_clips_is_random():
    first = Counter(epoch_of(sampler(), epoch)[0].clips[0] for epoch in range(500))
    assert len(first) == 10
    assert max(first.values()) < 50 + 4 * math.sqrt(500 * 0.1 * 0.9)


def test_seed_and_epoch_decide_everything():
    assert same(epoch_of(sampler(seed=3), 5), epoch_of(sampler(seed=3), 5))
    assert not same(epoch_of(sampler(seed=3), 5), epoch_of(sampler(seed=3), 6))
    assert not same(epoch_of(sampler(seed=3), 5), epoch_of(sampler(seed=4), 5))
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert same(epoch_of(sampler(seed=3), 5), epoch_of(sampler(seed=3), 5))


def test_every_crop_has_a_seed_of_its_own_in_every_epoch():
    # Clips as long as a crop: only the seed tells their views apart, and their epochs.
    seeds = [
        batch.seeds
        for seed in range(5)
        for epoch in range(5)
        for batch in epoch_of(sampler(n_samples=CROP, seed=seed), epoch)
    ]
    assert {pairs.shape for pairs in seeds} == {(3, 2)}
    assert len(np.unique(seeds)) == 5 * 5 * 9 * 2
    assert np.min(seeds) >= 0


def test_validation_has_the_same_crops_in_the_order_of_the_clips_in_every_epoch():
    fixed = sampler(shuffle=False)
    first = epoch_of(fixed, 0)
    assert np.concatenate([batch.clips for batch in first]).tolist() == list(range(100, 109))
    assert same(epoch_of(fixed, 7), first)
    assert len(np.unique(np.concatenate([batch.starts for batch in first]))) > 9  # not all at 0


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_parts_of_the_devices_put_together_are_the_batches_of_one_device(world_size):
    whole = epoch_of(sampler(26, batch_size=2 * world_size), 4)
    parts = [
        epoch_of(sampler(26, batch_size=2, rank=rank, world_size=world_size), 4)
        for rank in range(world_size)
    ]
    together = [
        Places(*(np.concatenate(column) for column in zip(*step, strict=True)))
        for step in zip(*parts, strict=True)
    ]
    assert same(together, whole)


# What is read.


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"), [300, 120, 50, 75, 200, 51, 400, 90])


def test_a_batch_holds_the_samples_of_its_places(store):
    places = Places(np.array([6, 0, 5]), np.array([[350, 0], [17, 250], [1, 0]]))
    batch = Slices(store, CROP)[places]
    assert batch.shape == (3, 2, CROP)
    assert batch.dtype == torch.int16
    for row, clip in enumerate(places.clips):
        for view, start in enumerate(places.starts[row]):
            expected = samples_of(clip, store.n_samples[clip])[start : start + CROP]
            assert np.array_equal(batch[row, view], expected)


def mark(x, seed):
    """Instead of augmentation: the seed where the first sample was."""
    assert x.shape == (1, CROP)
    return torch.cat([torch.tensor([[float(seed)]]), -x[:, 1:]], dim=1)


def test_each_slice_is_augmented_in_float_by_its_own_seed(store):
    starts, seeds = np.array([[350, 0], [17, 250], [1, 0]]), np.arange(6).reshape(3, 2)
    places = Places(np.array([6, 0, 5]), starts, seeds)
    batch = Slices(store, CROP, mark)[places]
    assert batch.dtype == torch.float32
    assert batch[..., 0].tolist() == [[0, 1], [2, 3], [4, 5]]
    plain = Slices(store, CROP)[places]
    assert torch.equal(batch[..., 1:], -plain[..., 1:] / 32768)


@pytest.mark.parametrize("augment", [None, mark])
def test_the_number_of_reading_processes_changes_nothing(store, augment):
    def read(workers):
        chosen = CropSampler(np.arange(8), store.n_samples, CROP, batch_size=2, seed=1)
        slices = Slices(store, CROP, augment)
        return list(DataLoader(slices, sampler=chosen, batch_size=None, num_workers=workers))

    here, elsewhere = read(0), read(2)
    assert len(here) == 4
    assert all(torch.equal(a, b) for a, b in zip(here, elsewhere, strict=True))


# Windows.


def test_a_clip_of_magnatagatune_has_ten_windows():
    # 29.1 s at 22,050 Hz; 59,049 samples are 2.678 s.
    places = window_places(np.array([7]), np.array([641_655]), 59_049)
    assert places.clips.tolist() == [7] * 10
    assert places.starts[:, 0].tolist() == [0, *(59_049 * k for k in range(1, 10))]
    assert 641_655 - (places.starts[-1, 0] + 59_049) < 59_049  # an eleventh does not fit


def test_windows_cover_each_clip_without_overlap_in_order():
    lengths = np.array([300, 120, 49, 50, 200])
    places = window_places(np.array([4, 0, 9, 2, 1]), lengths, CROP)
    assert places.clips.tolist() == [4] * 6 + [0] * 2 + [2] + [1] * 4
    assert places.starts[:, 0].tolist() == [
        *(0, 50, 100, 150, 200, 250), *(0, 50), 0, *(0, 50, 100, 150),
    ]  # fmt: skip


def test_no_clips_have_no_windows():
    places = window_places(np.array([], dtype=np.int64), np.array([], dtype=np.int64), CROP)
    assert places.starts.shape == (0, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_windows_of_many_clips_share_batches_and_all_arrive(store, workers):
    clips = np.array([6, 2, 0])
    places = window_places(clips, store.n_samples[clips], CROP)
    batches = list(window_loader(store, places, CROP, batch_size=4, workers=workers))
    assert [len(batch) for batch in batches] == [4, 4, 4, 3]
    found = torch.cat(batches)[:, 0].flatten()
    expected = np.concatenate([samples_of(6, 400), samples_of(2, 50), samples_of(0, 300)])
    assert np.array_equal(found, expected)
