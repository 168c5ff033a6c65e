"""The sound of the demo dataset: one small function per instrument, and the room around them.

Every instrument is a model of how its sound comes about (a string, a bow, a breath, a bell), no
larger than it takes to be told from the others. All sound here is float, at `SAMPLE_RATE`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from numpy.random import Generator

SAMPLE_RATE = 22_050
HIGHEST_HZ = 0.45 * SAMPLE_RATE
TABLE = 2048                                                 # points of one stored period
RHYTHMS = ((1,), (0.5, 0.5), (2,))                           # in beats: all return to the beat

# The first three formants of five vowels, spoken by men: Peterson & Barney 1952, table II
VOWELS_HZ = np.array([
    [270, 2290, 3010], [530, 1840, 2480], [730, 1090, 2440], [570, 840, 2410], [300, 870, 2240],
])


@dataclass(frozen=True)
class Score:
    """What one clip plays."""

    instruments: tuple[str, ...]     # names in INSTRUMENTS; each plays a melody of its own
    tempo_bpm: float                 # beats per minute; most notes last one beat
    scale: tuple[int, ...]           # pitches in use, in semitones above C, 0 to 11
    tuning: float                    # semitones by which everything is sharp
    velocity: float                  # how hard the notes are played, 0 to 1; harder is brighter
    level_db: float                  # root mean square of the clip, relative to full scale


def _time(duration_s: float) -> ndarray:
    return np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE


def _swell(t: ndarray, attack_s: float, release_s: float) -> ndarray:
    return np.clip(np.minimum(t / attack_s, (t[-1] - t) / release_s), 0, 1)


def _smooth(x: ndarray, width: int) -> ndarray:
    window = np.hanning(width + 2)                           # a low-pass filter of `width` samples
    return np.convolve(x, window / window.sum(), "same")


def _harmonics(frequency_hz: float) -> ndarray:
    return np.arange(1, min(40, int(HIGHEST_HZ / frequency_hz)) + 1)


def _vibrato(frequency_hz: float, t: ndarray, rate_hz: float, depth: float) -> ndarray:
    """Cycles passed at each time, of a tone whose pitch swings by a share `depth`."""
    return np.cumsum(frequency_hz * (1 + depth * np.sin(2 * np.pi * rate_hz * t))) / SAMPLE_RATE


def _wave(cycles: ndarray, gains: ndarray) -> ndarray:
    """Harmonics with these gains, read from one stored period: one lookup instead of many sines."""
    spectrum = np.zeros(TABLE // 2 + 1, complex)
    spectrum[1 : len(gains) + 1] = -0.5j * TABLE * gains
    period = np.fft.irfft(spectrum)
    return np.interp(cycles % 1 * TABLE, np.arange(TABLE + 1), np.append(period, period[0]))


def _partials(t: ndarray, f_hz: ndarray, gains: ndarray, t60_s: ndarray) -> ndarray:
    """Sines that each fall by 60 dB in a time of their own; exp(a + b) as exp(a) exp(b) is fast."""
    rate = 2j * np.pi * f_hz - np.log(1000) / t60_s                        # [P]
    coarse = np.exp(np.outer(t[::128], rate)) * gains * (f_hz < HIGHEST_HZ)     # [n / 128, P]
    fine = np.exp(np.outer(rate, t[:128]))                                 # [P, 128]
    return np.einsum("np,pt->nt", coarse, fine).imag.ravel()[: len(t)] * _swell(t, 0.002, 0.05)


def _string(frequency_hz: float, duration_s: float, brightness: float, rng: Generator) -> ndarray:
    """Noise runs round a loop that loses treble: Karplus & Strong 1983, doi:10.2307/3680062."""
    t = _time(duration_s)
    loss = 0.5 - 0.4 * brightness
    delay, rest = divmod(SAMPLE_RATE / frequency_hz - loss, 1)
    delay = int(delay)
    fall = 10 ** (-3 / (2.5 * frequency_hz))                 # 60 dB in 2.5 s
    taps = np.convolve([1 - loss, loss], [1 - rest, rest]) * fall
    pluck = _smooth(rng.normal(size=delay), round(2 + 20 * (1 - brightness) ** 2))
    x = np.zeros(2 + delay * (2 + len(t) // delay))
    x[2 : 2 + delay] = pluck - pluck.mean()
    for i in range(2 + delay, len(x), delay):                # a whole trip along the string at once
        x[i : i + delay] = np.convolve(x[i - delay - 2 : i], taps, "valid")
    return x[2 : 2 + len(t)] * _swell(t, 0.001, 0.05)


# Instruments: (frequency_hz, duration_s, velocity from 0 to 1, rng) -> float [n_samples]. What is
# plucked or struck rings on after `duration_s`. Their levels are made equal by `render`.


def guitar(frequency_hz: float, duration_s: float, velocity: float, rng: Generator) -> ndarray:
    return _string(frequency_hz, duration_s + 0.4, 0.4 + 0.3 * velocity, rng)


def harpsichord(frequency_hz: float, duration_s: float, velocity: float, rng: Generator) -> ndarray:
    return _string(frequency_hz, duration_s + 0.2, 0.95, rng)     # a quill knows no velocity


def bass(frequency_hz: float, duration_s: float, velocity: float, rng: Generator) -> ndarray:
    return _string(frequency_hz, duration_s, 0.3 * velocity, rng)


def piano(frequency_hz: float, duration_s: float, velocity: float, rng: Generator) -> ndarray:
    t, h = _time(duration_s + 0.4), _harmonics(frequency_hz)[:20]
    stretched_hz = frequency_hz * h * np.sqrt(1 + 4e-4 * h**2)       # a stiff string: Fletcher 1964
    gains = np.exp(-h / (3 + 4 * velocity)) * np.abs(np.sin(np.pi * h / 8))     # struck at 1/8
    hammer = _smooth(rng.normal(size=len(t)), 12) * np.exp(-t / 0.01)
    return _partials(t, stretched_hz, gains, 6 / (1 + 0.3 * h)) + 0.5 * velocity * hammer


def bells(frequency_hz: float, duration_s: float, velocity: float, rng: Generator) -> ndarray:
    ratios = np.array([0.5, 1, 1.2, 1.5, 2, 2.5, 2.67, 3, 4, 5.33])  # of a tuned church bell
    ratios *= 1 + rng.normal(0, 0.002, len(ratios))
    gains = np.exp(-ratios * (0.7 - 0.5 * velocity)) * rng.uniform(0.6, 1, len(ratios))
    return _partials(_time(duration_s + 0.8), frequency_hz * ratios, gains, 2.5 / np.sqrt(ratios))


def flute(frequency_hz: float, duration_s: float, velocity: float, rng: Generator) -> ndarray:
    t, h = _time(duration_s), _harmonics(frequency_hz)[:6]
    tone = _wave(_vibrato(frequency_hz, t, 5.0, 0.003), (0.2 + 0.3 * velocity) ** (h - 1))
    breath = _smooth(rng.normal(size=len(t)), 4)
    return (tone + 0.1 * breath) * _swell(t, 0.06, 0.06)


def violin(frequency_hz: float, duration_s: float, velocity: float, rng: Generator) -> ndarray:
    t, h = _time(duration_s), _harmonics(frequency_hz)
    gains = h ** (0.5 * velocity - 1.5)                      # near 1/h: the string sticks and slips
    tone = _wave(_vibrato(frequency_hz, t, rng.uniform(5.5, 6.5), 0.006), gains)
    return (tone + 0.05 * rng.normal(size=len(t))) * _swell(t, 0.1, 0.06)


def cello(frequency_hz: float, duration_s: float, velocity: float, rng: Generator) -> ndarray:
    t, h = _time(duration_s), _harmonics(frequency_hz)
    body = 1 + 3 * np.exp(-(((h * frequency_hz - 220) / 100) ** 2))
    gains = body * h ** (0.8 * velocity - 1.9)
    tone = _wave(_vibrato(frequency_hz, t, rng.uniform(4.5, 5.5), 0.005), gains)
    return (tone + 0.05 * rng.normal(size=len(t))) * _swell(t, 0.12, 0.08)


def voice(frequency_hz: float, duration_s: float, velocity: float, rng: Generator) -> ndarray:
    t, h = _time(duration_s), _harmonics(frequency_hz)
    cycles = _vibrato(frequency_hz, t, rng.uniform(5, 6), 0.012)
    vowels_hz = rng.permutation(VOWELS_HZ)[:2, :, None]                               # [2, 3, 1]
    formants = 1 / (1 + ((h * frequency_hz - vowels_hz) / 90) ** 2)                   # [2, 3, H]
    gains = (formants * [[1.0], [0.6], [0.4]]).sum(1) * h ** (0.5 * velocity - 1.0)   # [2, H]
    share = t / duration_s                                   # the mouth moves from vowel to vowel
    tone = (1 - share) * _wave(cycles, gains[0]) + share * _wave(cycles, gains[1])
    return tone * _swell(t, 0.05, 0.08)


def synth(frequency_hz: float, duration_s: float, velocity: float, rng: Generator) -> ndarray:
    t, h = _time(duration_s), _harmonics(frequency_hz)
    square = (h % 2) / h * np.exp(-h / (6 + 20 * velocity))
    detuned_hz = frequency_hz * 2 ** (np.array([-0.1, 0.1]) / 12)
    return sum(_wave(f * t + rng.random(), square) for f in detuned_hz) * _swell(t, 0.005, 0.02)


def drums(frequency_hz: float, duration_s: float, velocity: float, rng: Generator) -> ndarray:
    """One stroke on a kit, which knows no pitch: the hi-hat, and the kick or the snare."""
    t = _time(0.25)
    noise = rng.normal(size=len(t))
    hat = (noise - _smooth(noise, 4)) * 10 ** (-3 * t / 0.08)
    kick = 2 * np.sin(2 * np.pi * (50 * t - 3 * np.exp(-t / 0.03))) * 10 ** (-3 * t / 0.3)
    snare = (noise + np.sin(2 * np.pi * 190 * t)) * 10 ** (-3 * t / 0.15)
    return (0.4 + velocity) * hat + (kick if rng.random() < 0.5 else snare)


# Tag -> how it sounds, and the lowest note (MIDI) of the two octaves that it plays
INSTRUMENTS: dict[str, tuple[Callable[[float, float, float, Generator], ndarray], int]] = {
    "guitar": (guitar, 40),
    "harpsichord": (harpsichord, 48),
    "piano": (piano, 50),
    "bells": (bells, 65),
    "flute": (flute, 62),
    "violin": (violin, 57),
    "cello": (cello, 38),
    "voice": (voice, 48),
    "synth": (synth, 50),
    "bass": (bass, 28),
    "drums": (drums, 36),
}


def melody(name: str, score: Score, duration_s: float, rng: Generator) -> ndarray:
    """One instrument's part, `[duration_s * SAMPLE_RATE]`: a walk along the scale."""
    play, lowest = INSTRUMENTS[name]
    pitches = [p for p in range(lowest, lowest + 24) if p % 12 in score.scale]
    x = np.zeros(round(duration_s * SAMPLE_RATE))
    n_beats = int(duration_s * score.tempo_bpm / 60) + 1
    beats = [b for i in rng.choice(3, n_beats, p=[0.7, 0.15, 0.15]) for b in RHYTHMS[i]]
    starts_s = np.cumsum([0, *beats]) * 60 / score.tempo_bpm
    step = rng.integers(len(pitches))
    for start_s, end_s in zip(starts_s[starts_s < duration_s], starts_s[1:], strict=False):
        step = np.clip(step + rng.integers(-2, 3), 0, len(pitches) - 1)
        frequency_hz = 440 * 2 ** ((pitches[step] + score.tuning - 69) / 12)
        velocity = np.clip(score.velocity + rng.normal(0, 0.07), 0, 1)
        note = play(frequency_hz, 0.95 * (end_s - start_s), velocity, rng) * (0.5 + velocity)
        place = x[round(start_s * SAMPLE_RATE) :][: len(note)]      # a view; short at the end
        place += note[: len(place)]
    return x


def room(x: ndarray, rng: Generator) -> ndarray:
    """Put sound into a room of its own: an echo that dies away, and a tilted spectrum."""
    tail = rng.normal(size=SAMPLE_RATE) * 10 ** (-3 * _time(1.0) / rng.uniform(0.2, 1.0))
    tail *= rng.uniform(0.0, 0.4) / np.sqrt((tail**2).sum())
    tail[0] += 1
    n_fft = len(x) + len(tail)                               # else the end would echo at the start
    octaves = np.log2(np.fft.rfftfreq(n_fft, 1 / SAMPLE_RATE).clip(50) / 1000)
    tilt = 10 ** (rng.uniform(-1, 1) * octaves / 20)         # decibels per octave
    return np.fft.irfft(np.fft.rfft(x, n_fft) * np.fft.rfft(tail, n_fft) * tilt)[: len(x)]


def render(score: Score, duration_s: float, rng: Generator) -> ndarray:
    """Play a score.

    Args:
        score: What to play.
        duration_s: Length of the clip, in seconds.
        rng: Where the notes come from, and all in their sound that is by chance.

    Shape:
        output: float `[duration_s * SAMPLE_RATE]`, in (-1, 1).
    """
    x = np.zeros(round(duration_s * SAMPLE_RATE))
    for name in score.instruments:
        part = melody(name, score, duration_s, rng)
        x += part / part.std() * 10 ** (rng.uniform(-3, 3) / 20)
    x = room(x, rng)
    x *= 10 ** (score.level_db / 20) / x.std()
    x += rng.normal(0, 10 ** (rng.uniform(-70, -60) / 20), len(x))        # the noise floor
    return np.tanh(x)                                        # a soft limit: peaks never clip
