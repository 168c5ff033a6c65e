"""Log-mel statistics, against a spectrogram written out in NumPy and against physics."""

import math

import numpy as np
import pytest
import torch

from clmr.encoders import LogMelStatistics

SAMPLE_RATE = 16_000
N_MELS = 64
N_FFT, HOP = 1024, 512
FLOOR = 1e-6


def mel_of_hz(f):
    """O'Shaughnessy 1987, the scale of HTK."""
    return 2595 * np.log10(1 + f / 700)


def band_edges_hz():
    """N_MELS + 2 frequencies, equally spaced in mel: where bands begin, peak and end."""
    mel = np.linspace(0, mel_of_hz(SAMPLE_RATE / 2), N_MELS + 2)
    return 700 * (10 ** (mel / 2595) - 1)


def log_mel_written_out(x):
    """Log power in triangular bands, [M, frames]; frames are centred, the wave is mirrored."""
    padded = np.pad(x, N_FFT // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    n_frames = 1 + len(x) // HOP
    frames = np.stack([padded[k * HOP : k * HOP + N_FFT] * window for k in range(n_frames)])
    power = np.abs(np.fft.rfft(frames)) ** 2  # [frames, bins]
    f = np.arange(N_FFT // 2 + 1) * SAMPLE_RATE / N_FFT
    edges = band_edges_hz()
    rising = (f - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - f) / (edges[2:] - edges[1:-1])[:, None]
    bands = np.clip(np.minimum(rising, falling), 0, None)  # [M, bins]
    return np.log(bands @ power.T + FLOOR)


def statistics(x):
    h = LogMelStatistics(SAMPLE_RATE, N_MELS)(torch.from_numpy(x).float()[None, None])[0]
    return h[:N_MELS].double().numpy(), h[N_MELS:].double().numpy()


def tone(f_hz, amplitude=0.3, seconds=1):
    return amplitude * np.sin(2 * np.pi * f_hz * np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE)


def noise(amplitude=0.1):
    return amplitude * np.random.default_rng(0).standard_normal(SAMPLE_RATE)


def test_features_are_mean_and_deviation_of_a_spectrogram_written_out():
    x = noise() * np.linspace(0.1, 1, SAMPLE_RATE)
    expected = log_mel_written_out(x)
    mean, std = statistics(x)
    np.testing.assert_allclose(mean, expected.mean(axis=1), atol=2e-3)
    np.testing.assert_allclose(std, expected.std(axis=1, ddof=1), atol=2e-3)


@pytest.mark.parametrize("f_hz", [300, 1000, 3000, 6500])
def test_a_tone_is_loudest_in_the_band_of_its_pitch(f_hz):
    edges = band_edges_hz()
    mean, _ = statistics(tone(f_hz))
    band = int(mean.argmax())
    assert edges[band] < f_hz < edges[band + 2]


def test_twice_the_amplitude_is_four_times_the_power_in_every_band():
    soft, loud = noise(0.1), noise(0.2)
    (mean_soft, std_soft), (mean_loud, std_loud) = statistics(soft), statistics(loud)
    np.testing.assert_allclose(mean_loud - mean_soft, 2 * math.log(2), atol=1e-3)
    np.testing.assert_allclose(std_loud, std_soft, atol=1e-3)


def test_silence_is_at_the_floor_and_does_not_move():
    mean, std = statistics(np.zeros(SAMPLE_RATE))
    np.testing.assert_allclose(mean, math.log(FLOOR), rtol=1e-6)
    np.testing.assert_allclose(std, 0, atol=1e-6)


def test_a_sound_that_comes_and_goes_has_a_larger_deviation_than_one_that_stays():
    gate = np.arange(SAMPLE_RATE) // 2000 % 2
    band = int(statistics(tone(1000))[0].argmax())
    assert statistics(tone(1000) * gate)[1][band] > 3 > 0.5 > statistics(tone(1000))[1][band]


def test_there_is_nothing_to_train():
    assert list(LogMelStatistics(SAMPLE_RATE).parameters()) == []
