"""What a dataset is to the rest of the package: a list of clips, and the names of its tags."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Clip:
    """One audio file of a dataset.

    Args:
        id: Name of the clip, unique in the dataset and the same on every machine.
        path: Where the file should be. It need not exist: preprocessing lists it if it does not.
        split: `train`, `valid` or `test`.
        labels: 1 for each of the dataset's tags that the clip has, else 0; None without labels.

    Shape:
        labels: uint8 `[C]`, in the order of `AudioDataset.tags`.
    """

    id: str
    path: Path
    split: str
    labels: np.ndarray | None = None


class AudioDataset:
    """Base of all datasets. A new one sets `tags` and writes `clips()`; it never opens audio.

    Args:
        dataset_dir: Folder that holds the datasets (`--dataset_dir`).
    """

    tags: tuple[str, ...] = ()

    def __init__(self, dataset_dir: str | Path) -> None:
        self.dataset_dir = Path(dataset_dir)

    def prepare(self) -> None:
        """Put the audio files on disk, for a dataset that can; called once before preprocessing."""

    def clips(self) -> list[Clip]:
        """List every clip, in an order that is the same on every machine.

        Raises:
            DatasetError: The dataset is not on disk, or not in the layout that was expected.
        """
        raise NotImplementedError
