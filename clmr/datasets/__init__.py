"""Datasets: which clips exist, their split and their tags.

To add one, subclass `AudioDataset` in a file of its own and list it here.
"""

from clmr.datasets.audio import AudioFolder
from clmr.datasets.base import AudioDataset, Clip
from clmr.datasets.demo import Demo
from clmr.datasets.magnatagatune import MagnaTagATune

DATASETS: dict[str, type[AudioDataset]] = {
    "magnatagatune": MagnaTagATune,
    "audio": AudioFolder,
    "demo": Demo,
}

__all__ = ["DATASETS", "AudioDataset", "AudioFolder", "Clip", "Demo", "MagnaTagATune"]
