"""Reverse: the end first."""

from torch import Tensor

from clmr.augmentations.base import Augmentation, Parameters


class Reverse(Augmentation):
    """Play backwards."""

    def apply(self, x: Tensor, parameters: Parameters) -> Tensor:
        return x.flip(-1)
