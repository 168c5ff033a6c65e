"""Write what SoX 14.4.2 makes of a few waveforms: `python tests/data/make_sox.py`, once."""

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
from numpy import ndarray

from clmr.datasets.demo_synthesis import SAMPLE_RATE, Score, render

HERE = Path(__file__).parent
N_SAMPLES = 59_049
N_SHORT = 3000                                               # the longest comb, three times over
PEAK = 0.25                                                  # SoX clips each ear at full scale
REVERBS = [(0, 0, 0), (99, 0, 99), (99, 99, 99), (99, 0, 0), (50, 50, 99)]
BAND_HZ = 8000                                               # of the clips of MagnaTagATune
CENTS = [-700, -555, -400, -234, -55, 1, 123, 300, 489, 700]


def music() -> ndarray:
    """Two pieces `[2, N_SAMPLES]`, strings with a voice and a band with drums, up to `BAND_HZ`."""
    bands = [("violin", "cello", "voice"), ("piano", "bass", "flute", "drums")]
    scores = [Score(band, 100, (0, 2, 4, 5, 7, 9, 11), 0.2, 0.6, -20) for band in bands]
    seconds = N_SAMPLES / SAMPLE_RATE
    pieces = np.stack([render(score, seconds, np.random.default_rng(0)) for score in scores])
    spectra = np.fft.rfft(pieces)
    spectra[:, round(BAND_HZ * seconds) :] = 0
    return np.fft.irfft(spectra, N_SAMPLES)


def quantise(x: ndarray) -> ndarray:
    """Scale each row to `PEAK`, rounded to 16 bits."""
    return np.round(x / np.abs(x).max(axis=1, keepdims=True) * PEAK * 2**15) / 2**15


def sox(x: ndarray, *effects: object) -> ndarray:
    """Let SoX change one row, and keep its length."""
    with TemporaryDirectory() as folder:
        soundfile.write(f"{folder}/in.wav", x, SAMPLE_RATE, subtype="PCM_16")
        as_float = ["-b", "32", "-e", "floating-point", "out.wav"]
        command = ["sox", "-D", "in.wav", *as_float, *map(str, effects)]
        subprocess.run(command, check=True, cwd=folder)
        y, sample_rate = soundfile.read(f"{folder}/out.wav")
    assert (sample_rate, y.ndim) == (SAMPLE_RATE, 1)
    return np.pad(y, (0, max(0, len(x) - len(y))))[: len(x)]


def reverb(x: ndarray, percentages: tuple[int, int, int]) -> ndarray:
    return sox(x, "reverb", *percentages, "channels", 1)


def pitch(x: ndarray, cents: int) -> ndarray:
    return sox(x, "pitch", cents, "rate", SAMPLE_RATE)


def store(name: str, rows: ndarray, subtype: str = "PCM_24") -> None:
    """Write rows `[N, T]` end to end."""
    assert np.abs(rows).max() < 1
    soundfile.write(HERE / f"{name}.flac", rows.ravel(), SAMPLE_RATE, subtype, compression_level=1)


if __name__ == "__main__":
    rng = np.random.default_rng(1)
    long = quantise(music())
    impulse = np.eye(1, N_SHORT, 7)[0]
    short = quantise(np.stack([impulse, rng.normal(size=N_SHORT), long[1, :N_SHORT]]))
    triples = rng.integers(0, 100, (60, 3)).tolist()
    drawn = {"reverb": REVERBS, "reverb_short": triples, "pitch": CENTS}
    (HERE / "parameters.json").write_text(json.dumps(drawn) + "\n")
    store("input", long, "PCM_16")
    store("input_short", short, "PCM_16")
    store("reverb", np.stack([reverb(long[k % 2], p) for k, p in enumerate(REVERBS)]))
    store("reverb_short", np.stack([reverb(short[k % 3], p) for k, p in enumerate(triples)]))
    store("pitch", np.stack([pitch(long[k % 2], cents) for k, cents in enumerate(CENTS)]))
