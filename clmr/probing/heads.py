"""Heads that need no training: tags from features in one closed form, quick and without chance."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.07  # of the neighbours' weights: Wu et al. 2018, arXiv:1805.01978
PENALTY = 1.0  # of the linear head, in variances of a standardised feature


def knn_scores(h_fit: Tensor, labels: Tensor, h: Tensor) -> Tensor:
    """Share of a clip's nearest neighbours that have each tag, weighted by their similarity.

    Neighbours are the nearest by cosine of standardised features, as many as the square root of the
    number of clips; one of similarity s weighs exp(s / 0.07) (Wu et al. 2018).

    Args:
        h_fit: Features of the n clips whose labels are known.
        labels: 1 where one of them has a tag, else 0.
        h: Features of the m clips to score.

    Shape:
        `[n, F]`, `[n, C]`, `[m, F]` -> float64 `[m, C]`.
    """
    x_fit, x = _standardize(h_fit, h)
    similarity = F.normalize(x, dim=1) @ F.normalize(x_fit, dim=1).T  # [m, n]
    nearest = similarity.topk(math.isqrt(len(x_fit)), dim=1)
    weights = torch.softmax(nearest.values / TEMPERATURE, dim=1)  # [m, k]
    return torch.einsum("mk,mkc->mc", weights, labels.double()[nearest.indices])


def linear_scores(h_fit: Tensor, labels: Tensor, h: Tensor) -> Tensor:
    """Ridge regression of the labels on standardised features.

    Its direction is that of Fisher's linear discriminant (Bishop 2006, section 4.1.5), regularised.
    The arguments are those of `knn_scores`.

    Shape:
        `[n, F]`, `[n, C]`, `[m, F]` -> float64 `[m, C]`.
    """
    (x_fit, x), labels = _standardize(h_fit, h), labels.double()
    penalty = PENALTY * len(x_fit) * torch.eye(x_fit.shape[1], dtype=torch.float64)
    share = labels.mean(dim=0)
    weights = torch.linalg.solve(x_fit.T @ x_fit + penalty, x_fit.T @ (labels - share))  # [F, C]
    return share + x @ weights


def _standardize(h_fit: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Both by mean and deviation of the first; a feature whose changes are rounding is left out."""
    h_fit, h = h_fit.double(), h.double()
    std, mean = torch.std_mean(h_fit, dim=0, unbiased=False)
    std = torch.where(std > 1e-6 * mean.abs(), std, math.inf)
    return (h_fit - mean) / std, (h - mean) / std
