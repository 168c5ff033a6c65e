"""VICReg (Bardes, Ponce & LeCun 2022, arXiv:2105.04906), on any devices."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clmr.losses.gather import gather, in_float32

INVARIANCE, VARIANCE, COVARIANCE = 25, 25, 1  # section 4.2
EPSILON = 1e-4  # of the variance, section 4.1


class VICReg(nn.Module):
    """Views of a clip are equal; over clips each dimension varies, and no two vary together.

    As the paper's algorithm 1 has it: the invariance is a mean over dimensions too, where its
    equation 5 sums them, and the variances of the two views are added, where the released code
    takes their mean. Variance and covariance are those of all devices' clips, gathered with their
    gradient, so that the mean over devices is exactly the whole batch on one device.
    """

    def forward(self, z_i: Tensor, z_j: Tensor) -> Tensor:
        """Loss of the batch; half precision is computed in float32.

        Args:
            z_i: Projections of the first views.
            z_j: Projections of the second views; row k is of the same clip as row k of `z_i`.

        Shape:
            float `[B, D]`, float `[B, D]` -> float32 `[]`; B is equal on all devices.
        """
        with torch.autocast(z_i.device.type, enabled=False):
            z_i, z_j = in_float32(z_i), in_float32(z_j)
            spread = _spread(gather(z_i)) + _spread(gather(z_j))
            return INVARIANCE * F.mse_loss(z_i, z_j) + spread


def _spread(z: Tensor) -> Tensor:
    """Variance and covariance terms of one view of all clips, float `[BW, D]` -> `[]`."""
    z = z - z.mean(0)
    freedom = max(len(z) - 1, 1)  # one clip alone has no variance, which is not NaN
    covariance = z.T @ z / freedom  # [D, D]
    variance = covariance.diagonal()
    hinge = F.relu(1 - (variance + EPSILON).sqrt()).mean()
    off_diagonal = covariance - variance.diag()
    return VARIANCE * hinge + COVARIANCE * off_diagonal.square().sum() / z.shape[1]
