"""The augmentations against those of the package torchaudio_augmentations, which CLMR used."""

import importlib
import random
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from clmr.augmentations import Delay, Gain, Noise, PolarityInversion

N_SAMPLES = 30_000
DELAYS_MS = range(200, 500, 50)


@pytest.fixture(scope="module")
def reference():
    """The package; its effects by SoX, which torchaudio no longer has, are not used here."""
    before = set(sys.modules)
    placeholder = ModuleType("augment")
    placeholder.EffectChain = object
    sys.modules["augment"] = placeholder
    yield importlib.import_module("torchaudio_augmentations")
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("augment", "torchaudio_augmentations"):
            del sys.modules[name]


@pytest.fixture
def x():
    return 0.3 * torch.randn(1, N_SAMPLES, generator=torch.Generator().manual_seed(0))


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
