"""Pitch shift at the same duration."""

import math

import torch
from torch import Tensor

from clmr.augmentations.base import Augmentation, Parameters, check_range
from clmr.augmentations.fast_length import fast_length
from clmr.augmentations.interpolation import TAPS, polynomials, read_between
from clmr.augmentations.interpolation_triton import read_rows
from clmr.augmentations.kernels import kernels_suit
from clmr.augmentations.wsola import Segmentation, find_splices

MOST_SEMITONES = 24
LEAST_RATE_HZ = 1000  # below it a segment is too few samples
LEAD = TAPS // 2 - 1  # samples that interpolation needs before a position
EDGE = 0.08  # of the pass band, over which the anti-alias filter falls; closest to SoX
MARGIN = 256  # samples of silence after which the end of a row no longer rings into its beginning
RESAMPLED_AT_ONCE = 2**19  # samples, on the CPU: what fits the caches


class PitchShift(Augmentation):
    """Shift the pitch by a whole number of cents, as SoX does.

    The waveform is stretched in time by overlap-add of similar segments (WSOLA) and then resampled
    to its old length, so that an onset stays where it was to within 50 ms (15 ms for a semitone).

    Args:
        p: Probability that a row is transformed.
        sample_rate: Of the input [Hz].
        min_semitones: Smallest shift; negative is down.
        max_semitones: Largest shift.
        generator: Source of all randomness.

    Raises:
        ValueError: A shift is beyond two octaves, or the sample rate below 1,000 Hz.
    """

    samples_at_once = {"cpu": 2**22, "cuda": 2**24}  # the search is faster the more rows there are

    def __init__(
        self,
        p: float,
        sample_rate: int,
        min_semitones: float = -7,
        max_semitones: float = 7,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(p, generator)
        check_range("semitones", min_semitones, max_semitones, -MOST_SEMITONES, MOST_SEMITONES)
        check_range("sample_rate", sample_rate, sample_rate, LEAST_RATE_HZ, math.inf)
        self.sample_rate = sample_rate
        self.min_semitones, self.max_semitones = min_semitones, max_semitones

    def draw(self, n: int) -> Parameters:
        low, high = round(100 * self.min_semitones), round(100 * self.max_semitones)
        return {"cents": self.integers(n, low, high + 1)}

    def apply(self, x: Tensor, parameters: Parameters) -> Tensor:
        most_cents = round(100 * self.max_semitones)
        return shift_pitch(x[:, 0], parameters["cents"], self.sample_rate, most_cents)[:, None]


def shift_pitch(x: Tensor, cents: Tensor, sample_rate: int, most_cents: int) -> Tensor:
    """Shift the pitch of each row by its own number of cents.

    Args:
        x: Waveforms.
        cents: Shift of each row, at most `most_cents`.
        sample_rate: Of the waveforms [Hz].
        most_cents: Bound that is known without asking the device, which would have to be waited
            for; on the CPU the largest shift is looked up.

    Shape:
        float `[N, T]`, int64 `[N]` -> float `[N, T]`.
    """
    cut = Segmentation.at(sample_rate)
    order = cents.argsort(descending=True)  # those that need the most segments come first
    speed = _six_digits(torch.exp2(-cents[order].double() / 1200))
    n_samples = x.shape[1]
    if x.is_cuda:
        torch._assert_async((cents <= most_cents).all())
        longest = n_samples * 2 ** (most_cents / 1200) + TAPS
        n_segments = [math.ceil(longest / cut.hop) + 1] * len(x)
        n_at_once = len(x)
    else:
        n_segments = ((n_samples / speed + TAPS) / cut.hop).ceil().long().tolist()
        n_at_once = max(1, RESAMPLED_AT_ONCE // n_samples)
    ordered = x[order]
    splices = find_splices(ordered, speed, n_segments, cut)
    y = torch.empty_like(x)
    for first in range(0, len(x), n_at_once):
        part = slice(first, first + n_at_once)
        own = splices[part, : n_segments[first]]
        y[order[part]] = _resample(ordered[part], own, speed[part], cut)
    return torch.where(cents[:, None] == 0, x, y)


def _resample(x: Tensor, splices: Tensor, speed: Tensor, cut: Segmentation) -> Tensor:
    """Lay out the segments, and play the result faster or slower until it has its old length.

    Both are done at twice the sample rate, where few taps interpolate well.

    Shape:
        float `[N, T]`, int64 `[N, S]`, float64 `[N]` -> float `[N, T]`.
    """
    n_rows, n_samples = x.shape
    stretched = _overlap_add(_oversample(x, speed), splices, cut)  # [N, L]
    if kernels_suit(x):
        return read_rows(stretched, 2 / speed, n_samples, polynomials(x.dtype, x.device))
    n = torch.arange(n_samples, dtype=torch.float64, device=x.device)
    row = torch.arange(n_rows, device=x.device) * stretched.shape[1]
    positions = torch.addcmul(row[:, None], n, (2 / speed)[:, None])  # [N, T]
    return read_between(stretched.flatten(), positions.flatten()).view(n_rows, n_samples)


def _oversample(x: Tensor, speed: Tensor) -> Tensor:
    """Put a sample between any two, and remove what would alias when a row is played faster.

    Shape:
        float `[N, T]`, float64 `[N]` -> float `[N, 2 * T]`.
    """
    n_fft = fast_length(x.shape[1] + MARGIN)
    band = torch.linspace(0, 1, n_fft // 2 + 1, dtype=x.dtype, device=x.device)
    end = speed.clamp(max=1).to(x.dtype)[:, None]  # of the pass band, as a share of Nyquist
    fall = ((band / end - 1) / EDGE + 1).clamp_(0, 1)
    gain = 2 - fall.square() * (6 - 4 * fall)  # 2: half of the samples are new
    return torch.fft.irfft(torch.fft.rfft(x, n_fft) * gain, 2 * n_fft)[:, : 2 * x.shape[1]]


def _overlap_add(x: Tensor, splices: Tensor, cut: Segmentation) -> Tensor:
    """Lay out the segments of an oversampled waveform, each faded into the next.

    Shape:
        float `[N, 2 * T]`, int64 `[N, S]` -> float `[N, S * 2 * cut.hop]`, of which the first
        `LEAD` samples lie before the beginning.
    """
    n_rows, n_segments = splices.shape
    hop, overlap = 2 * cut.hop, 2 * cut.overlap
    before, after = cut.search + LEAD, 2 * (cut.segment + cut.search + cut.overlap)
    line = torch.nn.functional.pad(x, (before, after))
    row = torch.arange(n_rows, device=x.device) * line.shape[1]
    start = (row[:, None] + before - LEAD + 2 * splices).flatten()
    line = line.flatten()
    y = line.unfold(0, hop, 1).index_select(0, start).view(n_rows, n_segments, hop)
    n_fade = LEAD + overlap
    over = line.unfold(0, n_fade, 1).index_select(0, start + hop).view(n_rows, n_segments, n_fade)
    fade = (torch.arange(-LEAD, overlap, device=x.device) / overlap).clamp(min=0).to(x.dtype)
    y[:, 1:, :n_fade] = torch.lerp(over[:, :-1], y[:, 1:, :n_fade], fade)
    return y.flatten(1)


def _six_digits(x: Tensor) -> Tensor:
    """Round to six significant digits, as SoX passes the ratio on."""
    unit = 10 ** (torch.floor(torch.log10(x)) - 5)
    return (x / unit).round() * unit
