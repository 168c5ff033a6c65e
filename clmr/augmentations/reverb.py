"""Reverberation of a random room."""

import math

import torch
from torch import Tensor

from clmr.augmentations.base import Augmentation, Parameters, check_range
from clmr.augmentations.freeverb import (
    Circle,
    Room,
    from_circle,
    tables_of,
    to_circle,
    wet_responses,
)
from clmr.augmentations.kernels import kernels_suit
from clmr.augmentations.reverb_triton import multiply_by_response

LEAST_RATE_HZ = 1000  # below it delays are too few samples


class Reverb(Augmentation):
    """Reverberate as SoX does: eight damped combs and four all-passes for each of two ears.

    Each parameter is drawn from the whole numbers from its least up to, but without, its greatest.

    Args:
        p: Probability that a row is transformed.
        sample_rate: Of the input [Hz].
        min_reverberance: How long it rings [%].
        max_reverberance: [%].
        min_damping: How much faster high frequencies decay [%].
        max_damping: [%].
        min_room_scale: Size of the room [%].
        max_room_scale: [%].
        exact: Relative error below 5e-5 instead of 3e-4, at twice the cost.
        generator: Source of all randomness.

    Raises:
        ValueError: A range is not within 0 to 100 %, or the sample rate below 1,000 Hz.
    """

    def __init__(
        self,
        p: float,
        sample_rate: int,
        min_reverberance: int = 0,
        max_reverberance: int = 100,
        min_damping: int = 0,
        max_damping: int = 100,
        min_room_scale: int = 0,
        max_room_scale: int = 100,
        exact: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(p, generator)
        check_range("reverberance", min_reverberance, max_reverberance, 0, 100)
        check_range("damping", min_damping, max_damping, 0, 100)
        check_range("room_scale", min_room_scale, max_room_scale, 0, 100)
        check_range("sample_rate", sample_rate, sample_rate, LEAST_RATE_HZ, math.inf)
        self.sample_rate = sample_rate
        self.min_reverberance, self.max_reverberance = min_reverberance, max_reverberance
        self.min_damping, self.max_damping = min_damping, max_damping
        self.min_room_scale, self.max_room_scale = min_room_scale, max_room_scale
        self.exact = exact

    def draw(self, n: int) -> Parameters:
        return {
            "reverberance": self.integers(n, self.min_reverberance, self.max_reverberance),
            "damping": self.integers(n, self.min_damping, self.max_damping),
            "room_scale": self.integers(n, self.min_room_scale, self.max_room_scale),
        }

    def apply(self, x: Tensor, parameters: Parameters) -> Tensor:
        room = Room.of(**parameters, sample_rate=self.sample_rate)
        circle = Circle.for_length(x.shape[-1], self.exact)
        spectra = to_circle(circle, x[:, 0])
        if kernels_suit(x):
            tables = tables_of(circle, self.sample_rate, x.dtype, x.device)
            multiply_by_response(spectra, *room, tables.inverse, tables.allpass, *circle)
        else:
            left, right = wet_responses(room, circle, self.sample_rate, x.dtype)
            spectra *= left.add_(right).mul_(0.5).add_(1)  # in mono, with the direct sound
        return from_circle(circle, spectra, x.shape[-1])[:, None]
