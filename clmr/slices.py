"""Slices of a store in batches: random crops to train on, regular windows to evaluate on."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from clmr.ahead import ReadAhead
from clmr.audio import pcm_to_float
from clmr.store import PcmStore

N_VIEWS = 2
Augment = Callable[[Tensor, int], Tensor]  # float32 [1, T] and a seed -> float32 [1, T]


class Places(NamedTuple):
    """Where the slices of a batch start.

    Shape:
        clips: int `[B]`, numbers of clips in the store.
        starts: int `[B, V]`, first sample of each of the V slices of a clip.
        seeds: int `[B, V]`, of whatever is drawn for each slice; None where nothing is.
    """

    clips: np.ndarray
    starts: np.ndarray
    seeds: np.ndarray | None = None


class Slices(Dataset):
    """Slices of a store, a whole batch at a time.

    Args:
        store: Where the clips are.
        n_samples: Length T of a slice.
        augment: Applied to each slice with its seed, where slices are read; None leaves them.
    """

    def __init__(self, store: PcmStore, n_samples: int, augment: Augment | None = None) -> None:
        self.store, self.n_samples, self.augment = store, n_samples, augment

    def __getitem__(self, places: Places) -> Tensor:
        """Copy a batch out of the mapped store.

        Shape:
            int16 `[B, V, T]`; float32 `[B, V, T]` if it is augmented.
        """
        batch = np.empty((*places.starts.shape, self.n_samples), dtype=np.int16)
        for row, (clip, starts) in enumerate(zip(places.clips, places.starts, strict=True)):
            for view, start in enumerate(starts):
                batch[row, view] = self.store.read(clip, start, self.n_samples)
        pcm = torch.from_numpy(batch)
        return pcm if self.augment is None else self._augmented(pcm, places.seeds)

    def _augmented(self, pcm: Tensor, seeds: np.ndarray) -> Tensor:
        x = pcm_to_float(pcm)  # [B, V, T]
        for row, view in np.ndindex(seeds.shape):
            x[row, view] = self.augment(x[row, view][None], int(seeds[row, view]))[0]
        return x


class Starts(Dataset):
    """Where the slices of a batch start, for whoever holds all clips in one row.

    Args:
        first: First sample of each clip of the store in that row, int64 `[n]`.
    """

    def __init__(self, first: np.ndarray) -> None:
        self.first = first

    def __getitem__(self, places: Places) -> Tensor:
        """Count the starts from the first sample of all: int64 `[B, V]`."""
        return torch.from_numpy(self.first[places.clips][:, None] + places.starts)


class CropSampler(Sampler):
    """Batches of clips in random order, each once an epoch, with independent crops for its views.

    Each crop comes with a seed, for whoever augments it.

    What it draws is a function of seed and epoch alone: of the same epoch, every device takes its
    own part, and the number of reading processes changes nothing. The clips that do not fill a last
    batch are left out, and come in another epoch; fewer clips than one batch are one smaller batch.

    Args:
        clips: Numbers of the clips in the store, int `[n]`.
        n_samples: Their lengths, int `[n]`.
        crop: Length T of a crop [samples].
        batch_size: Clips B in a batch on one device.
        seed: Of order and crops.
        shuffle: False keeps the order, and the crops of epoch 0, for validation.
        rank: Number of this device.
        world_size: How many devices.
    """

    def __init__(
        self,
        clips: np.ndarray,
        n_samples: np.ndarray,
        crop: int,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.clips, self.n_starts = clips, n_samples - crop + 1
        self.batch_size = min(batch_size, len(clips) // world_size)
        self.seed, self.shuffle = seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = self.first_batch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws, from its first batch on."""
        self.epoch, self.first_batch = epoch if self.shuffle else 0, 0

    def start_at(self, step: int) -> None:
        """Let the next iteration go on as if so many batches had been drawn: `step` of them."""
        self.epoch, self.first_batch = divmod(step, len(self))

    def __len__(self) -> int:
        return len(self.clips) // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[Places]:
        # Not a generator itself: Lightning sets the epoch after it has asked for an iterator, and
        # reading processes draw in advance, so where to start is settled when it is asked for.
        batches = self._batches(self.epoch)
        return islice(batches, self.first_batch, None)

    def _batches(self, epoch: int) -> Iterator[Places]:
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.clips)) if self.shuffle else np.arange(len(self.clips))
        starts = rng.integers(0, self.n_starts[order, None], (len(order), N_VIEWS))
        seeds = rng.integers(0, 2**63, (len(order), N_VIEWS))
        for batch in range(len(self)):
            first = (batch * self.world_size + self.rank) * self.batch_size
            part = slice(first, first + self.batch_size)
            yield Places(self.clips[order[part]], starts[part], seeds[part])


def window_places(clips: np.ndarray, n_samples: np.ndarray, window: int) -> Places:
    """Every non-overlapping window of every clip, in order.

    Args:
        clips: Numbers of the clips in the store, int `[n]`.
        n_samples: Their lengths, int `[n]`.
        window: Length of a window [samples].

    Shape:
        Places of K windows: clips int `[K]`, starts int `[K, 1]`.
    """
    n_windows = n_samples // window
    first = np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    starts = (np.arange(n_windows.sum()) - first) * window
    return Places(np.repeat(clips, n_windows), starts[:, None])


def window_loader(
    store: PcmStore, places: Places, window: int, batch_size: int, workers: int
) -> DataLoader:
    """Load windows of many clips in shared batches, int16 `[<= batch_size, 1, window]`."""
    cuts = range(0, len(places.clips), batch_size)
    batches = [
        Places(places.clips[k : k + batch_size], places.starts[k : k + batch_size]) for k in cuts
    ]
    return ReadAhead(Slices(store, window), sampler=batches, batch_size=None, num_workers=workers)
