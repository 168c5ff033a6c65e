"""How well scores rank the clips that have a tag above those that do not.

Macro and per tag, as in the field: the area under the ROC curve, and under the precision-recall
curve as average precision (not interpolated: Davis & Goadrich 2006, ICML).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, roc_auc_score

from clmr.errors import ClmrError


class MetricError(ClmrError, ValueError):
    """Scores cannot be measured: they are not finite, or there is nothing to tell apart."""


@dataclass(frozen=True)
class TagScores:
    """Metrics of one split.

    Args:
        roc_auc: Mean over the tags of `per_tag`; so is `pr_auc`.
        per_tag: Tag -> its `roc_auc`, its `pr_auc` and its number of `positives`.
        skipped: Tags that no clip of the split has, or all have: they have no curve, and are
            left out of the means.
    """

    roc_auc: float
    pr_auc: float
    per_tag: dict[str, dict[str, float | int]]
    skipped: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same in plain values, fit for JSON."""
        return {**asdict(self), "skipped": list(self.skipped)}


def average_per_clip(scores: ArrayLike, clip_of_window: ArrayLike, n_clips: int) -> np.ndarray:
    """Average the scores of each clip's windows.

    Args:
        scores: One row per window, in any order.
        clip_of_window: Number of the clip that each window is from, 0 to `n_clips - 1`.
        n_clips: Number of clips; each needs at least one window.

    Shape:
        `[K, C]`, `[K]` -> float64 `[n_clips, C]`

    Raises:
        MetricError: A clip has no window.
    """
    scores, clips = np.asarray(scores), np.asarray(clip_of_window)
    if scores.ndim != 2 or clips.shape != scores.shape[:1]:
        raise ValueError(f"scores {scores.shape}, clips {clips.shape}; expected [K, C] and [K]")
    if clips.size and not 0 <= clips.min() <= clips.max() < n_clips:
        raise ValueError(f"clips {clips.min()} to {clips.max()}, expected 0 to {n_clips - 1}")
    n_windows = np.bincount(clips, minlength=n_clips)  # [n_clips]
    if not n_windows.all():
        missing = np.flatnonzero(n_windows == 0)
        raise MetricError(
            f"{len(missing)} of {n_clips} clips have no window, the first is number {missing[0]}; "
            "expected at least one each. Leave out clips that are shorter than a window"
        )
    sums = [np.bincount(clips, weights=column, minlength=n_clips) for column in scores.T]
    return np.stack(sums, axis=1) / n_windows[:, None]


def tag_scores(labels: ArrayLike, scores: ArrayLike, tags: Sequence[str]) -> TagScores:
    """Measure the scores of a split against its labels.

    Args:
        labels: 1 where the clip has the tag, else 0.
        scores: Higher means more likely; only their order matters.
        tags: Names of the columns.

    Shape:
        labels: `[n_clips, C]`
        scores: `[n_clips, C]`

    Raises:
        MetricError: A score is not finite, or no tag has both a clip with it and one without.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.shape != scores.shape or labels.shape[1:] != (len(tags),):
        raise ValueError(
            f"labels {labels.shape}, scores {scores.shape}; expected [n_clips, {len(tags)}] twice"
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels {np.unique(labels)[:5]}..., expected 0 and 1 only")
    assert len(set(tags)) == len(tags), "a tag that is named twice would count once"
    _check_finite(scores, tags)
    n_positive = labels.astype(bool).sum(axis=0)  # [C]
    scorable = (n_positive > 0) & (n_positive < len(labels))
    if not scorable.any():
        raise MetricError(
            f"none of {len(tags)} tags can be scored: among {len(labels)} clips each needs one "
            "that has it and one that has not. Evaluate on a larger split"
        )
    per_tag = {
        tags[i]: _one_tag(labels[:, i], scores[:, i]) for i in np.flatnonzero(scorable).tolist()
    }
    return TagScores(
        roc_auc=_mean(per_tag, "roc_auc"),
        pr_auc=_mean(per_tag, "pr_auc"),
        per_tag=per_tag,
        skipped=tuple(tag for tag, ok in zip(tags, scorable, strict=True) if not ok),
    )


def _check_finite(scores: np.ndarray, tags: Sequence[str]) -> None:
    bad = np.argwhere(~np.isfinite(scores))
    if len(bad):
        clip, column = bad[0]
        raise MetricError(
            f"{len(bad)} scores are not finite, the first is {scores[clip, column]} for clip "
            f"number {clip} and tag {tags[column]!r}; expected numbers. A model that diverged "
            "gives such scores: train it again with a lower learning rate"
        )


def _one_tag(labels: np.ndarray, scores: np.ndarray) -> dict[str, float | int]:
    return {
        "roc_auc": float(roc_auc_score(labels, scores)),
        "pr_auc": float(average_precision_score(labels, scores)),
        "positives": int(labels.sum()),
    }


def _mean(per_tag: dict[str, dict[str, float | int]], name: str) -> float:
    return float(np.mean([values[name] for values in per_tag.values()]))
