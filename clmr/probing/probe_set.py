"""The fixed clips that a run is probed on, and what is measured on them."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from clmr.audio import pcm_to_float
from clmr.datamodule import ContrastiveDataModule
from clmr.metrics import tag_scores
from clmr.modules import ContrastiveLearning
from clmr.modules.contrastive_learning import PROBE
from clmr.probing.geometry import alignment, effective_rank, uniformity
from clmr.probing.heads import knn_scores, linear_scores
from clmr.slices import CropSampler, Places, Slices
from clmr.splits import Split
from clmr.store import PcmStore

SEED = 0  # of clips and crops: not the run's, so that runs of other seeds can be compared
BAR_AFTER_S = 2
HEADS = {"knn": knn_scores, "linear": linear_scores}


class ProbeSet:
    """Up to `probe_clips` clips of each of train and valid, two crops of each, and their labels.

    A tag counts if in train and in valid there is a clip that has it, and one that has not.

    Attributes:
        n_train: Clips of the training split, to which the heads are fitted.
        n_valid: Clips of the validation split, on which they are scored.
        tags: Names of the tags that count.

    Args:
        data: Where the clips are.
        tags: Names of the dataset's tags.
    """

    def __init__(self, data: ContrastiveDataModule, tags: tuple[str, ...]) -> None:
        config = data.config
        self.batch_size = config.batch_size
        self.crops = Slices(data.store, config.audio_length)
        self.views = Slices(data.store, config.audio_length, data.augment)
        parts = [
            _choose(data.store, split, config.probe_clips, config.audio_length, len(tags))
            for split in (data.train, data.valid)
        ]
        (train, of_train), (valid, of_valid) = parts
        self.places = Places(*(np.concatenate(both) for both in zip(train, valid, strict=True)))
        self.n_train, self.n_valid = len(train.clips), len(valid.clips)
        columns = [c for c in range(len(tags)) if _differ(of_train, c) and _differ(of_valid, c)]
        self.n_all_tags = len(tags)
        self.tags = tuple(tags[c] for c in columns)
        self.labels = torch.from_numpy(np.concatenate([of_train, of_valid]))[:, columns]

    @property
    def curves(self) -> tuple[str, ...]:
        """Names of what `measure` measures here."""
        scores = [f"{head}_{metric}" for head in HEADS for metric in ("roc_auc", "pr_auc")]
        return ("alignment", "uniformity", "effective_rank", *(scores if self.tags else ()))

    @property
    def why_no_scores(self) -> str:
        """Why `tags` is empty, if it is."""
        if not self.n_all_tags:
            return "the dataset has no labels"
        return (
            f"none of {self.n_all_tags} tags has, among {self.n_train} train and among "
            f"{self.n_valid} valid clips, one with it and one without"
        )

    def most_rank(self, module: ContrastiveLearning) -> int:
        """The effective rank of features that take every direction alike."""
        return min(2 * len(self.places.clips), module.model.n_features)

    def measure(self, module: ContrastiveLearning) -> dict[str, float]:
        """Measure a network in evaluation mode and float32, leaving it as it is.

        Alignment and uniformity are of the projections z of two augmented views of each clip, the
        latter the mean over the two; effective rank is of the features h of the crops themselves,
        and kNN and the linear probe of the mean of a clip's two.

        Returns:
            Figures by name; none if the network's output is not finite.
        """
        with _evaluating(module):
            h, z = self._encode(module)  # [2, n, F], [2, n, D]
        if not (h.isfinite().all() and z.isfinite().all()):
            return {}
        figures = {
            "alignment": alignment(*z),
            "uniformity": (uniformity(z[0]) + uniformity(z[1])) / 2,
            "effective_rank": effective_rank(h.flatten(0, 1)),
        }
        return figures | (self._score(h.mean(dim=0)) if self.tags else {})

    def _encode(self, module: ContrastiveLearning) -> tuple[Tensor, Tensor]:
        h, z = [], []
        with tqdm(
            desc="probing", total=len(self.places.clips), unit=" clips", leave=False,
            delay=BAR_AFTER_S,
        ) as bar:  # fmt: skip
            for number, places in enumerate(self._batches()):
                x = pcm_to_float(self.crops[places].to(module.device))  # [B, 2, T]
                h_i, h_j, _, _ = module.model(*x.transpose(0, 1).unsqueeze(2))
                views = module.views(self.views[places].to(module.device), PROBE, number)
                _, _, z_i, z_j = module.model(*views)
                h.append(torch.stack([h_i, h_j]).float().cpu())
                z.append(torch.stack([z_i, z_j]).float().cpu())
                bar.update(len(places.clips))
        return torch.cat(h, dim=1), torch.cat(z, dim=1)

    def _batches(self) -> Iterator[Places]:
        for first in range(0, len(self.places.clips), self.batch_size):
            yield Places(*(part[first : first + self.batch_size] for part in self.places))

    def _score(self, h: Tensor) -> dict[str, float]:
        n, figures = self.n_train, {}
        for name, head in HEADS.items():
            scores = head(h[:n], self.labels[:n], h[n:])
            found = tag_scores(self.labels[n:], scores, self.tags)
            figures |= {f"{name}_roc_auc": found.roc_auc, f"{name}_pr_auc": found.pr_auc}
        return figures


def _choose(
    store: PcmStore, split: Split, n_clips: int, audio_length: int, n_tags: int
) -> tuple[Places, np.ndarray]:
    """Places of at most so many clips of a split, two crops each, and the clips' labels."""
    if not len(split.clips):
        none = np.zeros((0, 2), dtype=np.int64)
        return Places(split.clips, none, none), np.zeros((0, n_tags), dtype=np.uint8)
    n_samples = store.n_samples[split.clips]
    sampler = CropSampler(split.clips, n_samples, audio_length, n_clips, SEED)
    places = next(iter(sampler))
    row_of = {clip: row for row, clip in enumerate(split.clips.tolist())}
    return places, split.labels[[row_of[clip] for clip in places.clips.tolist()]]


def _differ(labels: np.ndarray, column: int) -> bool:
    return len(labels) > 0 and len(np.unique(labels[:, column])) == 2


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True
