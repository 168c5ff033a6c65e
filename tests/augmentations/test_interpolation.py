"""Reading a waveform between its samples."""

import math

import pytest
import torch

from clmr.augmentations.interpolation import TAPS, read_between

BEFORE = TAPS // 2 - 1  # taps before the sample that a position of fraction 0 reads
N = 4000


def tone(cycles, at):
    """A cosine of `cycles` a sample, and the phase of a sine mixed in."""
    return torch.cos(2 * math.pi * cycles * at) + 0.5 * torch.sin(2 * math.pi * cycles * at)


def error_db(y, expected):
    return 10 * torch.log10((y - expected).square().mean() / expected.square().mean()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_fills_the_lower_half_of_the_band_is_read_to_73_db(dtype):
    # Noise in that half, known at four times as many places: its spectrum, with zeros above.
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.fft.rfft(torch.randn(2 * N, dtype=torch.float64, generator=generator))
    spectrum[N // 2 :] = 0
    dense = torch.fft.irfft(spectrum, 8 * N)
    positions = torch.arange(100, 1000, 0.25, dtype=torch.float64)
    y = read_between(dense[::4].to(dtype), positions)
    assert y.dtype == dtype
    assert error_db(y.double(), dense[4 * (100 + BEFORE) : 4 * (1000 + BEFORE)]) < -73


@pytest.mark.parametrize("cycles", [0, 0.001, 0.05, 0.1, 0.15, 0.2, 0.22, 0.24])
def test_a_tone_in_the_lower_half_of_the_band_is_read_anywhere(cycles):
    samples = tone(cycles, torch.arange(N, dtype=torch.float64))
    positions = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    positions = positions * (N - TAPS)
    assert error_db(read_between(samples, positions), tone(cycles, positions + BEFORE)) < -69


def test_at_a_sample_the_sample_is_read():
    samples = tone(0.2, torch.arange(N, dtype=torch.float64))
    positions = torch.arange(0, N - TAPS + 1, dtype=torch.float64)
    y = read_between(samples, positions)
    assert error_db(y, samples[BEFORE : N - TAPS + 1 + BEFORE]) < -73


def test_nothing_jumps_where_the_taps_move_on():
    samples = tone(0.2, torch.arange(N, dtype=torch.float64))
    positions = torch.arange(1, N - TAPS, dtype=torch.float64)
    assert error_db(read_between(samples, positions - 1e-9), read_between(samples, positions)) < -73


def test_forwards_and_backwards_are_mirrored():
    samples = torch.randn(TAPS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    line = torch.cat([samples, torch.zeros(1, dtype=torch.float64)])
    mirrored = torch.cat([samples.flip(0), torch.zeros(1, dtype=torch.float64)])
    for fraction in (0.1, 0.25, 0.5):
        here = read_between(line, torch.tensor([fraction], dtype=torch.float64))
        there = read_between(mirrored, torch.tensor([1 - fraction], dtype=torch.float64))
        torch.testing.assert_close(here, there, rtol=0, atol=1e-9)
