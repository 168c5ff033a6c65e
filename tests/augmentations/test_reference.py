"""The augmentations against those of the package torchaudio_augmentations, which CLMR used."""

import importlib
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clmr.augmentations import (
    AUGMENTATIONS,
    Delay,
    Gain,
    HighLowPass,
    Noise,
    PitchShift,
    PolarityInversion,
    Reverb,
    Reverse,
    build_chain,
    drawn_for,
)
from clmr.augmentations.effect_chain import register_effect_chain
from clmr.augmentations.noise import white_noise
from clmr.augmentations.reference import ReferenceChain

SAMPLE_RATE = 22_050
N_SAMPLES = 30_000
DELAYS_MS = range(200, 500, 50)


@pytest.fixture(scope="module")
def reference():
    """The package, with SoX's effects or, where there is no SoX, ours."""
    register_effect_chain()
    return importlib.import_module("torchaudio_augmentations")


@pytest.fixture
def x():
    return 0.3 * torch.randn(1, N_SAMPLES, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def music():
    """Four notes a row, each struck somewhere, in a little noise, float32 [16, 1, T]."""
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(N_SAMPLES) / SAMPLE_RATE
    overtone = torch.arange(1, 5)[:, None]
    x = 0.003 * torch.randn(16, 1, N_SAMPLES, generator=generator)
    for row in x[:, 0]:
        for pitch_hz, start_s in torch.rand(4, 2, generator=generator).tolist():
            age_s = t - start_s * t[-1]
            tones = torch.sin(2 * math.pi * (110 + 440 * pitch_hz) * overtone * age_s) / overtone
            row += 0.1 * tones.sum(dim=0) * torch.exp(-3 * age_s.clamp(min=0)) * (age_s >= 0)
    return 0.25 * x  # so that no ear of the reverb is clipped, which ours does not do


def test_polarity_is_the_same(reference, x):
    assert torch.equal(PolarityInversion(1)(x[None])[0], reference.PolarityInversion()(x))


@pytest.mark.parametrize("gain_db", [-20, -7.3, -1, 0, 12])
def test_gain_is_the_same_clamping_included(reference, x, gain_db, monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: gain_db)
    ours = Gain(1, gain_db, gain_db)(x[None])[0]
    torch.testing.assert_close(ours, reference.Gain()(x), rtol=1e-6, atol=1e-6)


def test_gain_is_drawn_from_the_same_range(reference):
    theirs, ours = reference.Gain(), Gain(1)
    assert (ours.min_gain_db, ours.max_gain_db) == (theirs.min_gain, theirs.max_gain)


@pytest.mark.parametrize("sample_rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("delay_ms", DELAYS_MS)
def test_delay_is_the_same_bit_for_bit(reference, x, sample_rate, delay_ms, monkeypatch):
    monkeypatch.setattr(random, "choice", lambda delays_ms: delay_ms)
    ours = Delay(1, sample_rate, min_delay_ms=delay_ms, max_delay_ms=delay_ms)(x[None])[0]
    assert torch.equal(ours, reference.Delay(sample_rate)(x))


def test_delay_is_drawn_from_the_same_values(reference, x, monkeypatch):
    drawn = []
    monkeypatch.setattr(random, "choice", lambda values: drawn.extend(values) or values[0])
    reference.Delay(22_050)(x)
    assert list(Delay(1, 22_050).delays_ms) == drawn


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of theirs
@pytest.mark.parametrize("snr", [1e-4, 3e-3, 1e-2])
def test_noise_has_the_same_level(reference, x, snr, monkeypatch):
    levels = []

    def normal(mean, sigma, size):
        levels.append(float(sigma))
        return np.zeros(size)

    monkeypatch.setattr(np.random, "normal", normal)
    reference.Noise(snr, snr)(x)
    noise = Noise(1, snr, snr, torch.Generator().manual_seed(0))(x[None].double()) - x
    assert noise.std().item() == pytest.approx(levels[0], rel=4 / (2 * N_SAMPLES) ** 0.5)


def test_noise_is_drawn_from_the_same_range(reference):
    theirs, ours = reference.Noise(), Noise(1)
    assert (ours.min_snr, ours.max_snr) == (theirs.min_snr, theirs.max_snr)


@pytest.mark.parametrize("sample_rate", [16_000, 22_050, 44_100])
@pytest.mark.parametrize(
    ("high_pass", "cutoff_hz"), [(1, 200), (1, 1200), (1, 612.3), (0, 2200), (0, 4000), (0, 3141)]
)
def test_the_filters_are_the_same(reference, x, sample_rate, high_pass, cutoff_hz, monkeypatch):
    monkeypatch.setattr(random, "randint", lambda low, high: (high, low)[high_pass])
    monkeypatch.setattr(random, "uniform", lambda low, high: cutoff_hz)
    drawn = {"high_pass": [bool(high_pass)], "cutoff_hz": [cutoff_hz]}
    drawn = {name: torch.tensor(value) for name, value in drawn.items()}
    ours = HighLowPass(1, sample_rate).apply(x[None], drawn)[0]
    theirs = reference.HighLowPass(sample_rate)(x)
    assert (ours - theirs).norm() <= 2e-5 * theirs.norm()
    assert (theirs - x).norm() > 0.05 * x.norm()


def test_the_filters_are_drawn_from_the_same_ranges(reference):
    theirs, ours = reference.HighLowPass(SAMPLE_RATE), HighLowPass(1, SAMPLE_RATE)
    low, high = theirs.low_pass_filter, theirs.high_pass_filter
    assert (ours.lowpass_freq_low, ours.lowpass_freq_high) == (low.freq_low, low.freq_high)
    assert (ours.highpass_freq_low, ours.highpass_freq_high) == (high.freq_low, high.freq_high)


@pytest.mark.parametrize("cents", [-700, -250, 0, 1, 333, 700])
def test_the_pitch_is_shifted_the_same_way(reference, music, cents, monkeypatch):
    monkeypatch.setattr(random, "randint", lambda low, high: cents)
    x = music[0]
    theirs = reference.PitchShift(N_SAMPLES, SAMPLE_RATE)(x)
    ours = PitchShift(1, SAMPLE_RATE).apply(x[None], {"cents": torch.tensor([cents])})[0]
    assert snr_db(ours, theirs) > 50


def test_the_pitch_is_drawn_from_the_same_range(reference):
    theirs, ours = reference.PitchShift(N_SAMPLES, SAMPLE_RATE), PitchShift(1, SAMPLE_RATE)
    assert 100 * ours.min_semitones == theirs.pitch_shift_cents_min
    assert 100 * ours.max_semitones == theirs.pitch_shift_cents_max


@pytest.mark.parametrize("drawn", [(0, 0, 0), (99, 0, 99), (99, 99, 99), (50, 50, 99), (20, 80, 5)])
def test_the_reverb_is_the_same(reference, music, drawn, monkeypatch):
    values = iter(drawn)
    x = music[0]
    monkeypatch.setattr(torch, "randint", lambda low, high, size: torch.tensor([next(values)]))
    theirs = reference.Reverb(SAMPLE_RATE)(x)
    names = ("reverberance", "damping", "room_scale")
    parameters = {name: torch.tensor([value]) for name, value in zip(names, drawn, strict=True)}
    ours = Reverb(1, SAMPLE_RATE).apply(x[None], parameters)[0]
    assert (ours - theirs).norm() <= 3e-4 * theirs.norm()
    exact = Reverb(1, SAMPLE_RATE, exact=True).apply(x[None], parameters)[0]
    assert (exact - theirs).norm() <= 5e-5 * theirs.norm()


def test_the_reverb_is_drawn_from_the_same_ranges(reference):
    theirs, ours = reference.Reverb(SAMPLE_RATE), Reverb(1, SAMPLE_RATE)
    for name, their_name in (
        ("reverberance", "reverberance"), ("damping", "dumping_factor"), ("room_scale", "room_size")
    ):  # fmt: skip
        for end in ("min", "max"):
            assert getattr(ours, f"{end}_{name}") == getattr(theirs, f"{their_name}_{end}")


def test_reversal_is_the_same(reference, x):
    assert torch.equal(Reverse(1)(x[None])[0], reference.Reverse()(x))


# The whole chain, with the same parameters.


def snr_db(found, expected):
    return (20 * torch.log10(expected.norm() / (found - expected).norm().clamp(min=1e-9))).item()


def reference_draws(drawn, monkeypatch):
    """Let the package draw, of a view, the parameters `drawn` by name of the step."""
    drawn = {name: SimpleNamespace(**values) for name, values in drawn.items()}
    reverb = [drawn["reverb"].__dict__[name] for name in ("reverberance", "damping", "room_scale")
              ] if "reverb" in drawn else []  # fmt: skip

    def uniform(low, high):
        if (low, high) == (-20, -1):
            return drawn["gain"].gain_db
        if low in (200, 2200):
            return drawn["filters"].cutoff_hz
        return low * drawn["noise"].snr / 1e-4  # low is 1e-4 of the deviation

    def randint(low, high):
        return int(not drawn["filters"].high_pass) if high == 1 else drawn["pitch"].cents

    def normal(mean, sigma, size):
        noise = white_noise(torch.tensor([drawn["noise"].seed]), size[-1])
        return float(sigma) * noise.numpy()

    monkeypatch.setattr(random, "uniform", uniform)
    monkeypatch.setattr(random, "randint", randint)
    monkeypatch.setattr(random, "choice", lambda values: drawn["delay"].delay_ms)
    monkeypatch.setattr(np.random, "normal", normal)
    monkeypatch.setattr(torch, "randint", lambda low, high, size: torch.tensor([reverb.pop(0)]))


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of theirs
@pytest.mark.parametrize(
    ("pitch", "reverse", "least_db", "median_db"), [(0, 0.5, 70, 70), (0.8, 0, 0, 55)]
)
def test_the_whole_chain_gives_the_views_of_the_reference(
    music, pitch, reverse, least_db, median_db, monkeypatch
):
    n_rows = len(music)
    probabilities = dict.fromkeys(AUGMENTATIONS, 0.5) | {"pitch": pitch, "reverse": reverse}
    generator = torch.Generator().manual_seed(0)
    chain = build_chain(AUGMENTATIONS, probabilities, SAMPLE_RATE, generator)
    draws = chain.draw(n_rows)
    ours = chain.apply(music, draws)
    ratios_db = []
    for row in range(n_rows):
        drawn = drawn_for(draws, row)
        reference = ReferenceChain(
            {name: float(name in drawn) for name in AUGMENTATIONS}, SAMPLE_RATE, N_SAMPLES
        )
        with monkeypatch.context() as patched:
            reference_draws(drawn, patched)
            theirs = reference(music[row], seed=0)
        ratios_db.append(snr_db(ours[row], theirs))
    assert all(len(draws[name].rows) > 3 for name, p in probabilities.items() if p)
    assert min(ratios_db) >= least_db
    assert sorted(ratios_db)[n_rows // 2] >= median_db
