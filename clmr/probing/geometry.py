"""How a representation lies in its space, without labels: is it alive, and how is it spread?"""

import torch
import torch.nn.functional as F
from torch import Tensor


def alignment(z_i: Tensor, z_j: Tensor) -> float:
    """Mean squared distance of the two views of a clip on the unit sphere: 0 if they are equal.

    Wang & Isola 2020, arXiv:2005.10242, section 4.1, with their alpha of 2.

    Args:
        z_i: Projections of one view of each clip, of any length.
        z_j: Those of the other.

    Shape:
        float `[n, D]`, float `[n, D]`.
    """
    z_i, z_j = F.normalize(z_i.double(), dim=1), F.normalize(z_j.double(), dim=1)
    return (z_i - z_j).square().sum(dim=1).mean().item()


def uniformity(z: Tensor, t: float = 2) -> float:
    """Logarithm of the mean Gaussian potential of two clips: the lower, the evener the spread.

    0 if all are equal; at t = 2 near -4 if they are even over a sphere of many dimensions. The same
    source as `alignment`.

    Args:
        z: Projections of n clips, two at least, of any length.
        t: Of the potential exp(-t d^2) at distance d.

    Shape:
        float `[n, D]`.
    """
    if len(z) < 2:
        raise ValueError(f"uniformity is of the distances of clips: got {len(z)}, expected 2")
    distances = F.pdist(F.normalize(z.double(), dim=1))  # [n (n - 1) / 2]
    return distances.square().mul(-t).exp().mean().log().item()


def effective_rank(h: Tensor) -> float:
    """How many directions features take: the exponential of their singular values' entropy.

    Between 1, if all rows are multiples of one, and min(K, F); 0 if all are zero. Roy & Vetterli
    2007, "The effective rank", EUSIPCO; of features of a pretrained network as RankMe, Garrido et
    al. 2023, arXiv:2210.02885. The features are not centred, in either.

    Shape:
        float `[K, F]`.
    """
    sigma = torch.linalg.svdvals(h.double())
    if not sigma.any():
        return 0.0
    return torch.special.entr(sigma / sigma.sum()).sum().exp().item()
