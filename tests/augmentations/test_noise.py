"""White noise, measured."""

import math

import pytest
import torch

from clmr.augmentations import Noise

N_SAMPLES = 59_049


def waves(levels):
    """Tones of different amplitudes, float64 [N, 1, T]."""
    t = torch.arange(N_SAMPLES, dtype=torch.float64)
    return torch.tensor(levels, dtype=torch.float64)[:, None, None] * torch.sin(0.05 * t)


def noise_of(snr, levels=(0.1, 0.9, 0.01), seed=0):
    x = waves(levels)
    augmentation = Noise(1, snr, snr, torch.Generator().manual_seed(seed))
    return x, augmentation(x) - x


@pytest.mark.parametrize("snr", [1e-4, 1e-2, 0.5])
def test_noise_has_the_drawn_share_of_the_rows_own_deviation(snr):
    x, noise = noise_of(snr)
    share = noise.std(dim=-1) / x.std(dim=-1)
    assert ((share / snr - 1).abs() < 4 / math.sqrt(2 * N_SAMPLES)).all()
    assert (noise.mean(dim=-1) / noise.std(dim=-1)).abs().max() < 4 / math.sqrt(N_SAMPLES)


def test_noise_is_white():
    _, noise = noise_of(1e-2)
    unit = noise[:, 0] / noise[:, 0].std(dim=-1, keepdim=True)
    for lag in range(1, 20):
        correlation = (unit[:, lag:] * unit[:, :-lag]).mean(dim=-1)
        assert correlation.abs().max() < 4 / math.sqrt(N_SAMPLES)
    power = torch.fft.rfft(unit).abs().square()[:, 1:-1]
    bands = torch.stack([band.mean(dim=-1) for band in power.chunk(8, dim=-1)])
    assert (bands / power.mean() - 1).abs().max() < 5 / math.sqrt(power.shape[-1] / 8)


def test_noise_is_gaussian():
    _, noise = noise_of(1e-2)
    unit = noise[0, 0] / noise[0, 0].std()
    for sigmas, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        within = (unit.abs() < sigmas).double().mean()
        assert within.item() == pytest.approx(share, abs=0.008)


def test_rows_have_noise_of_their_own_and_batches_too():
    _, noise = noise_of(1e-2, levels=(0.5, 0.5, 0.5))
    _, other = noise_of(1e-2, levels=(0.5,), seed=1)
    correlation = torch.corrcoef(torch.cat([noise, other])[:, 0]) - torch.eye(4)
    assert correlation.abs().max() < 5 / math.sqrt(N_SAMPLES)


def test_a_row_with_the_same_seed_has_the_same_noise():
    x = waves([0.5, 0.5, 0.5])
    parameters = {"snr": torch.full((3,), 0.01), "seed": torch.tensor([8, 7, 8])}
    y = Noise(1).apply(x, parameters)
    assert torch.equal(y[0], y[2])
    assert not torch.equal(y[0], y[1])


def test_levels_are_uniform_over_their_range():
    n = 20_000
    snr = Noise(1, generator=torch.Generator().manual_seed(0)).draw(n)["snr"]
    assert snr.min() >= 1e-4
    assert snr.max() <= 1e-2
    counts = torch.histc(snr, bins=10, min=1e-4, max=1e-2)
    assert (counts / n - 0.1).abs().max() < 3 * math.sqrt(0.1 * 0.9 / n)


def test_silence_stays_silent():
    assert torch.equal(Noise(1)(torch.zeros(2, 1, 50)), torch.zeros(2, 1, 50))


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.1), (0.2, 0.1), (0, math.nan)])
def test_a_range_that_makes_no_sense_is_refused(low, high):
    with pytest.raises(ValueError, match=f"snr: got {low} to {high}"):
        Noise(1, low, high)
