"""Polarity inversion: the wave upside down."""

from torch import Tensor

from clmr.augmentations.base import Augmentation, Parameters


class PolarityInversion(Augmentation):
    """Negate the samples."""

    def apply(self, x: Tensor, parameters: Parameters) -> Tensor:
        return -x
