"""Gain, in decibels of amplitude: 20 dB are a factor of 10, 6.02 dB one of 2."""

import math

import pytest
import torch

from clmr.augmentations import Gain


@pytest.mark.parametrize(
    ("gain_db", "factor"),
    [(0, 1), (-20, 0.1), (20 * math.log10(0.5), 0.5), (20 * math.log10(3), 3)],
)
def test_decibels_are_a_factor_of_the_amplitude(gain_db, factor):
    x = 0.2 * torch.rand(3, 1, 50, dtype=torch.float64) - 0.1
    y = Gain(1, min_gain_db=gain_db, max_gain_db=gain_db)(x)
    torch.testing.assert_close(y, factor * x, rtol=1e-6, atol=0)


def test_double_precision_is_used():
    x = torch.rand(3, 1, 50, dtype=torch.float64)
    torch.testing.assert_close(Gain(1, -20, -20)(x), x / 10, rtol=1e-12, atol=0)


def test_what_is_louder_than_full_scale_is_clamped():
    x = torch.tensor([[[0.3, -0.3, 0.05]]])
    y = Gain(1, min_gain_db=20, max_gain_db=20)(x)
    torch.testing.assert_close(y, torch.tensor([[[1.0, -1.0, 0.5]]]))


def test_each_row_has_its_own_parameter():
    x = torch.full((3, 1, 4), 0.5)
    parameters = {"gain_db": torch.tensor([0.0, -20.0, -40.0])}
    y = Gain(1).apply(x, parameters)
    torch.testing.assert_close(y[:, 0, 0], torch.tensor([0.5, 0.05, 0.005]))


def test_gains_are_uniform_over_their_range():
    n = 20_000
    gain_db = Gain(1, generator=torch.Generator().manual_seed(0)).draw(n)["gain_db"]
    assert gain_db.min() >= -20
    assert gain_db.max() <= -1
    counts = torch.histc(gain_db, bins=10, min=-20, max=-1)
    assert (counts / n - 0.1).abs().max() < 3 * math.sqrt(0.1 * 0.9 / n)


@pytest.mark.parametrize(("low", "high"), [(-1, -20), (0, math.nan), (math.nan, 0)])
def test_a_range_that_makes_no_sense_is_refused(low, high):
    with pytest.raises(ValueError, match=f"gain_db: got {low} to {high}"):
        Gain(1, min_gain_db=low, max_gain_db=high)
