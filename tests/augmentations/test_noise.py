"""White noise, measured."""

import math

import pytest
import torch

from clmr.augmentations import Noise
from clmr.augmentations.noise import white_noise

N_SAMPLES = 59_049
WORD = 2**64
GOLDEN = 0x9E3779B97F4A7C15


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


def test_the_deviation_is_that_of_a_sample_of_a_longer_wave():
    # Of (0, 1) it is sqrt((0.25 + 0.25) / (2 - 1)).
    x, seed = torch.tensor([[[0.0, 1.0]]], dtype=torch.float64), torch.tensor([7])
    y = Noise(1).apply(x, {"snr": torch.tensor([0.5]), "seed": seed})
    torch.testing.assert_close((y - x)[0], 0.5 * math.sqrt(0.5) * white_noise(seed, 2))


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


def split_mix_64(state):
    """The published generator's output for a state, in whole numbers of Python."""
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % WORD
    state = (state ^ state >> 27) * 0x94D049BB133111EB % WORD
    return state ^ state >> 31


def test_it_is_box_and_muller_on_the_numbers_of_split_mix_64():
    # The first outputs for seed 1234567, as published with implementations in many languages.
    first = [split_mix_64((1234567 + k * GOLDEN) % WORD) for k in (1, 2)]
    assert first == [6457827717110365317, 3203168211198807973]
    seeds, expected = [0, 1, 1234567, 2**62 + 12345, 2**63 - 2], []
    for seed in seeds:
        state = split_mix_64(seed)
        for k in range(1, 31):
            bits = split_mix_64((state + k * GOLDEN) % WORD)
            u, v = ((half + 0.5) / 2**32 for half in divmod(bits, 2**32))
            expected.append(math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v))
    expected = torch.tensor(expected, dtype=torch.float64).view(len(seeds), 30)
    torch.testing.assert_close(white_noise(torch.tensor(seeds), 30), expected, rtol=1e-9, atol=1e-9)


def test_its_moments_and_distribution_are_those_of_the_normal():
    noise = white_noise(torch.arange(16), N_SAMPLES).flatten()
    n = len(noise)
    assert abs(noise.mean()) < 4 / math.sqrt(n)
    assert abs(noise.square().mean() - 1) < 4 * math.sqrt(2 / n)
    assert abs(noise.pow(3).mean()) < 4 * math.sqrt(15 / n)
    assert abs(noise.pow(4).mean() - 3) < 4 * math.sqrt(96 / n)
    # Kolmogorov and Smirnov: the distance exceeds 1.95 / sqrt(n) once in a thousand times.
    below = 0.5 * (1 + torch.erf(noise.sort().values / math.sqrt(2)))
    distance = (below - (torch.arange(n) + 0.5) / n).abs().max() + 0.5 / n
    assert distance < 1.95 / math.sqrt(n)
    assert noise.abs().max() > 4.5  # of a million samples seven are beyond


def test_each_seed_has_noise_of_its_own_at_any_shift():
    # Neighbouring seeds above all, and none a later part of another.
    seeds = torch.tensor([0, 1, 2, 3, 4, 2**32, 2**62, 2**63 - 2])
    spectra = torch.fft.rfft(white_noise(seeds, N_SAMPLES), 2 * N_SAMPLES)
    for one in range(len(seeds)):
        for other in range(one, len(seeds)):
            product = torch.fft.irfft(spectra[one] * spectra[other].conj()) / N_SAMPLES
            product[0] -= float(one == other)
            assert product.abs().max() < 6 / math.sqrt(N_SAMPLES)


def test_neighbouring_samples_share_neither_sign_nor_size():
    noise = white_noise(torch.tensor([0]), 16 * N_SAMPLES)[0]
    for measure in (noise, noise.abs() - math.sqrt(2 / math.pi), noise.square() - 1, noise.sign()):
        for lag in range(1, 9):
            correlation = (measure[lag:] * measure[:-lag]).mean() / measure.square().mean()
            assert correlation.abs() < 4.5 / math.sqrt(len(noise))


def test_a_longer_row_starts_as_a_shorter_one():
    seeds = torch.tensor([5, 0, 6])
    assert torch.equal(white_noise(seeds, 1000)[:, :100], white_noise(seeds, 100))
    assert torch.equal(white_noise(seeds, 1000)[1:2], white_noise(seeds[1:2], 1000))


def test_seeds_are_drawn_from_all_whole_numbers():
    seed = Noise(1, generator=torch.Generator().manual_seed(0)).draw(20_000)["seed"]
    assert len(seed.unique()) == 20_000
    assert seed.min() >= 0
    assert seed.double().mean().item() == pytest.approx(2**62, rel=4 / math.sqrt(3 * 20_000))


def test_equal_bounds_fix_the_level():
    assert Noise(1, 0.25, 0.25).draw(50)["snr"].unique().tolist() == [0.25]


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
