"""Waveform-similarity overlap-add: where a waveform is cut to be stretched in time.

The signal is cut into overlapping segments that are laid out at another spacing; each is taken
from where, within a search range, it goes on most like the one before (Verhelst & Roelands 1993).
Constants and order of search are those of the pitch effect of SoX 14.4.2.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clmr.augmentations.fast_length import fast_length
from clmr.augmentations.kernels import kernels_suit
from clmr.augmentations.wsola_triton import search_splices

SEGMENT_S = 0.082


class Segmentation(NamedTuple):
    """Lengths in samples of a segment, its overlap with the next, and the search for its start."""

    segment: int
    overlap: int
    search: int

    @property
    def hop(self) -> int:
        """Distance of two segments where they are laid out."""
        return self.segment - self.overlap

    @classmethod
    def at(cls, sample_rate: int) -> "Segmentation":
        """That of a sample rate [Hz]."""
        samples = sample_rate * SEGMENT_S
        overlap = int(samples / 6.833 + 4.5) & ~7
        return cls(int(samples + 0.5), overlap, int(samples / 5.587 + 0.5))


def find_splices(x: Tensor, speed: Tensor, n_segments: list[int], cut: Segmentation) -> Tensor:
    """Choose where each segment is cut out.

    Args:
        x: Waveforms.
        speed: Spacing of the segments where they are cut out, as a share of `cut.hop`, in each row.
        n_segments: How many segments each row needs, in falling order.
        cut: Lengths.

    Returns:
        First sample of each segment, which for the first ones may lie before the waveform. Beyond
        the segments that a row needs, values mean nothing.

    Shape:
        float `[N, T]`, float64 `[N]` -> int64 `[N, n_segments[0]]`.
    """
    lead = cut.search // 2
    padded = torch.nn.functional.pad(x, (lead, cut.segment + cut.search + cut.overlap))
    row = torch.arange(len(x), device=x.device) * padded.shape[1]
    line = padded.flatten()

    step = torch.arange(n_segments[0], dtype=torch.float64, device=x.device)
    first = (speed[:, None] * (step * cut.hop) + 0.5).long()  # [N, S], start of the search
    first.clamp_(max=x.shape[1])  # of rows that need less segments
    if kernels_suit(x):
        return search_splices(padded, first, cut.search, cut.overlap, cut.hop) - lead

    n_window = cut.search + cut.overlap - 1
    windows = line.unfold(0, n_window, 1)[row[:, None] + first]  # [N, S, n_window]
    energy = _sliding_energy(windows, cut.overlap)  # [N, S, search]
    n_fft = fast_length(n_window)
    spectra = torch.fft.rfft(windows, n_fft)

    templates = line.unfold(0, cut.overlap, 1)
    starts = first + lead
    n = len(x)
    for s in range(1, n_segments[0]):
        while n_segments[n - 1] <= s:
            n -= 1
        template = templates.index_select(0, row[:n] + starts[:n, s - 1] + cut.hop)  # [n, overlap]
        # Not `conj`: within a custom operation, lazy conjugates have been seen to get lost.
        spectrum = torch.fft.rfft(template, n_fft).conj_physical_()
        product = torch.fft.irfft(spectra[:n, s] * spectrum, n_fft)[:, : cut.search]
        distance = torch.sub(energy[:n, s], product, alpha=2)  # less the template's own energy
        starts[:n, s] = first[:n, s] + distance.argmin(dim=1)
    return starts - lead


def _sliding_energy(x: Tensor, length: int) -> Tensor:
    """Energy of each stretch of `length` samples, from those of powers of two.

    Shape:
        float `[..., L]` -> float `[..., L - length + 1]`.
    """
    n_stretches = x.shape[-1] - length + 1
    energy, width = x.square(), 1  # of each stretch of `width` samples
    total, covered = 0, 0
    while covered < length:
        if length & width:
            total = total + energy[..., covered : covered + n_stretches]
            covered += width
        energy = energy[..., :-width] + energy[..., width:]
        width *= 2
    return total
