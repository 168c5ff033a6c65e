"""Polarity inversion."""

import torch

from clmr.augmentations import PolarityInversion


def test_the_wave_is_upside_down_and_twice_is_not_at_all():
    x = torch.tensor([[[0.25, -1.0, 0.0, 0.5]]])
    once = PolarityInversion(p=1)(x)
    assert once.tolist() == [[[-0.25, 1.0, 0.0, -0.5]]]
    assert torch.equal(PolarityInversion(p=1)(once), x)
