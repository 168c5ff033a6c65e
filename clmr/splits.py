"""Which clips of a store belong to a split and are long enough, with their labels."""

import logging
from dataclasses import dataclass

import numpy as np

from clmr.datasets import Clip
from clmr.errors import ConfigError
from clmr.store import PcmStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """The usable clips of one split of a dataset.

    Shape:
        clips: int `[n]`, numbers of clips in the store.
        labels: uint8 `[n, C]`; C is 0 without labels.
    """

    clips: np.ndarray
    labels: np.ndarray


def select_split(store: PcmStore, clips: list[Clip], split: str, audio_length: int) -> Split:
    """Find a split's clips in the store, leaving out those shorter than a crop with a warning."""
    number = {name: k for k, name in enumerate(store.ids)}
    there = [clip for clip in clips if clip.split == split and clip.id in number]
    usable = [clip for clip in there if store.n_samples[number[clip.id]] >= audio_length]
    if len(usable) < len(there):
        log.warning(
            "%d of %d %s clips are shorter than --audio_length %d and are left out",
            len(there) - len(usable), len(there), split, audio_length,
        )  # fmt: skip
    labels = [clip.labels if clip.labels is not None else [] for clip in usable]
    n_tags = len(labels[0]) if labels else 0
    return Split(
        clips=np.array([number[clip.id] for clip in usable], dtype=np.int64),
        labels=np.array(labels, dtype=np.uint8).reshape(len(usable), n_tags),
    )


def check_audio_length(store: PcmStore, audio_length: int) -> None:
    """Refuse crops that no clip can hold.

    Raises:
        ConfigError: With the longest length that would do.
    """
    longest = int(store.n_samples.max())
    if audio_length > longest:
        raise ConfigError(
            f"--audio_length {audio_length} is longer than any clip of {store.root}: the longest "
            f"has {longest} samples; give at most --audio_length {longest}"
        )
