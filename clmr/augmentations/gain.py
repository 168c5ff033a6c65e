"""Gain: louder or quieter."""

import math

import torch
from torch import Tensor

from clmr.augmentations.base import Augmentation, Parameters, check_range


class Gain(Augmentation):
    """Scale by a random gain and clamp to [-1, 1], as the reference does.

    Args:
        p: Probability that a row is transformed.
        min_gain_db: Smallest gain [dB].
        max_gain_db: Largest gain [dB].
        generator: Source of all randomness.
    """

    def __init__(
        self,
        p: float,
        min_gain_db: float = -20.0,
        max_gain_db: float = -1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(p, generator)
        check_range("gain_db", min_gain_db, max_gain_db, -math.inf, math.inf)
        self.min_gain_db, self.max_gain_db = min_gain_db, max_gain_db

    def draw(self, n: int) -> Parameters:
        return {"gain_db": self.uniform(n, self.min_gain_db, self.max_gain_db)}

    def apply(self, x: Tensor, parameters: Parameters) -> Tensor:
        gain = 10 ** (parameters["gain_db"].to(x.dtype) / 20)
        return (x * gain[:, None, None]).clamp(-1, 1)
