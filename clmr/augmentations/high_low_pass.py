"""High- or low-pass filter, at a random cut-off."""

import torch
from torch import Tensor

from clmr.augmentations.base import Augmentation, Parameters, check_range
from clmr.augmentations.fast_length import fast_length

ZERO_CROSSINGS = 8  # of the sinc, on both sides together; as julius has it
BLOCK = 4  # a block is at least so many times as long as the longest filter


class HighLowPass(Augmentation):
    """Filter with a high-pass or, as often, a low-pass: windowed sinc, zero phase.

    The filters are those of julius (Défossez 2020), where they are documented; beyond its ends a
    waveform goes on with its first and last sample.

    Args:
        p: Probability that a row is transformed.
        sample_rate: Of the input [Hz].
        lowpass_freq_low: Lowest cut-off of the low-pass [Hz].
        lowpass_freq_high: Its highest [Hz].
        highpass_freq_low: Lowest cut-off of the high-pass [Hz].
        highpass_freq_high: Its highest [Hz].
        generator: Source of all randomness.

    Raises:
        ValueError: A cut-off is not within 1 Hz and half the sample rate.
    """

    def __init__(
        self,
        p: float,
        sample_rate: int,
        lowpass_freq_low: float = 2200,
        lowpass_freq_high: float = 4000,
        highpass_freq_low: float = 200,
        highpass_freq_high: float = 1200,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(p, generator)
        nyquist = sample_rate / 2
        check_range("lowpass_freq", lowpass_freq_low, lowpass_freq_high, 1, nyquist)
        check_range("highpass_freq", highpass_freq_low, highpass_freq_high, 1, nyquist)
        self.sample_rate = sample_rate
        self.lowpass_freq_low, self.lowpass_freq_high = lowpass_freq_low, lowpass_freq_high
        self.highpass_freq_low, self.highpass_freq_high = highpass_freq_low, highpass_freq_high

    def draw(self, n: int) -> Parameters:
        high_pass = self.uniform(n, 0, 1) < 0.5
        low_hz = self.uniform(n, self.lowpass_freq_low, self.lowpass_freq_high)
        high_hz = self.uniform(n, self.highpass_freq_low, self.highpass_freq_high)
        cutoff_hz = torch.where(high_pass, high_hz, low_hz)
        # The second says nothing new, but names the filter to whoever reads what was drawn.
        return {"high_pass": high_pass, "low_pass": ~high_pass, "cutoff_hz": cutoff_hz}

    def apply(self, x: Tensor, parameters: Parameters) -> Tensor:
        lowest_hz = min(self.lowpass_freq_low, self.highpass_freq_low)
        reach = half_length(lowest_hz / self.sample_rate)
        cutoff = parameters["cutoff_hz"].double() / self.sample_rate
        taps = windowed_sinc(cutoff, parameters["high_pass"], reach)
        return convolve(x[:, 0], taps.to(x.dtype))[:, None]


def half_length(cutoff: float) -> int:
    """Samples of a filter before its middle; `cutoff` in cycles a sample."""
    return int(ZERO_CROSSINGS / cutoff / 2)


def windowed_sinc(cutoff: Tensor, high_pass: Tensor, reach: int) -> Tensor:
    """Taps of each row's filter.

    Args:
        cutoff: In cycles a sample.
        high_pass: Or low-pass, where false.
        reach: Samples before and after the middle, enough for the lowest cut-off.

    Shape:
        float64 `[N]`, bool `[N]` -> float64 `[N, 2 * reach + 1]`.
    """
    t = torch.arange(-reach, reach + 1, dtype=torch.float64, device=cutoff.device)
    half = (ZERO_CROSSINGS / cutoff / 2).floor()[:, None]
    window = torch.where(t.abs() <= half, 0.5 + 0.5 * torch.cos(torch.pi * t / half), 0)
    taps = window * torch.sinc(2 * cutoff[:, None] * t)
    taps = taps / taps.sum(dim=1, keepdim=True)  # no leak of the mean
    return torch.where(high_pass[:, None], (t == 0).double() - taps, taps)


def convolve(x: Tensor, taps: Tensor) -> Tensor:
    """Filter each row with its own taps, by FFTs of blocks that overlap (overlap-save).

    Blocks cost half of one FFT over the whole length: the spectrum of the taps is short, and what
    is worked on stays in the cache.

    Shape:
        float `[N, T]`, float `[N, 2 * reach + 1]` -> float `[N, T]`.
    """
    n_samples, n_extra = x.shape[1], taps.shape[1] - 1
    block = min(1 << (BLOCK * n_extra).bit_length(), fast_length(n_samples + n_extra))
    hop = block - n_extra
    n_blocks = -(-n_samples // hop)
    n_before, n_after = n_extra // 2, n_blocks * hop - n_samples + n_extra // 2
    ends = x[:, :1].expand(-1, n_before), x[:, -1:].expand(-1, n_after)
    x = torch.cat([ends[0], x, ends[1]], dim=1)  # `pad` takes five times as long
    spectra = torch.fft.rfft(x.unfold(1, block, hop)) * torch.fft.rfft(taps, block)[:, None]
    y = torch.fft.irfft(spectra, block)[..., n_extra:]  # [N, n_blocks, hop]
    return y.reshape(len(x), -1)[:, :n_samples]
