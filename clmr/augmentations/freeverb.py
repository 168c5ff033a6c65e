"""Freeverb in closed form: eight damped combs and four all-passes for each of two ears."""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from clmr.augmentations.fast_length import fast_length

# Freeverb (Jezar 2000) with the settings of the reverb effect of SoX 14.4.2.
COMBS = (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617)  # delays at 44.1 kHz [samples]
ALLPASSES = (225, 341, 441, 556)
STEREO = 12  # by which the delays of the second ear differ, with alternating sign
WET = 0.015
LEAST_FEEDBACK, MOST_FEEDBACK = 0.3, 0.98
COLUMNS = 256  # of the table of bins; any number near the root of how many there are does
LEAST_FFT = 4096  # below it, the radius is so large that powers of it overflow


class Room(NamedTuple):
    """What the three percentages stand for in the combs of each row.

    Shape:
        feedback: float64 `[N, 1, 1]`.
        damping: float64 `[N, 1, 1]`, coefficient of the low-pass in the loop.
        delays: int64 `[N, 16]`, of the first ear's combs, then of the second's [samples].
    """

    feedback: Tensor
    damping: Tensor
    delays: Tensor

    @classmethod
    def of(
        cls, reverberance: Tensor, damping: Tensor, room_scale: Tensor, sample_rate: int
    ) -> "Room":
        """The room of each row; all three in percent, `[N]`."""
        a = -1 / math.log(1 - LEAST_FEEDBACK)
        b = 100 / (math.log(1 - MOST_FEEDBACK) * a + 1)
        feedback = (1 - torch.exp((reverberance.double() - b) / (a * b))).float()
        low_pass = (0.3 * damping.double() / 100 + 0.2).float()
        scale = (0.9 * room_scale.double() / 100 + 0.1) * sample_rate / 44_100
        delays = scale[:, None] * _comb_delays(scale.device)
        return cls(
            feedback.double()[:, None, None],
            low_pass.double()[:, None, None],
            (delays + 0.5).long(),
        )


class Circle(NamedTuple):
    """Where spectra are taken: z_k = radius * exp(2 pi i k / n_fft), outside the unit circle.

    There the filters, which ring for seconds, decay within the FFT: that of x[n] on the circle is
    the FFT of x[n] * radius ** -n.
    """

    n_fft: int
    radius: float

    @classmethod
    def for_length(cls, n_samples: int, exact: bool) -> "Circle":
        """Balance what is left of the ring, and wraps around, with how rounding errors grow.

        The first is divided by radius ** n_fft; the second multiplied, by the end of the FFT.
        """
        n_fft = fast_length(max(2 * n_samples if exact else n_samples, LEAST_FFT))
        return cls(n_fft, (1e5 if exact else 3e3) ** (1 / n_fft))


def to_circle(circle: Circle, x: Tensor) -> Tensor:
    """Spectra of waveforms on the circle: float `[N, T]` -> complex `[N, n_fft // 2 + 1]`."""
    return torch.fft.rfft(x * _decay(circle, x.shape[1], x.dtype, x.device), circle.n_fft)


def from_circle(circle: Circle, spectra: Tensor, n_samples: int) -> Tensor:
    """Waveforms of spectra on the circle: complex `[N, n_fft // 2 + 1]` -> float `[N, T]`."""
    x = torch.fft.irfft(spectra, circle.n_fft)[:, :n_samples]
    return x / _decay(circle, n_samples, x.dtype, x.device)


def wet_responses(
    room: Room, circle: Circle, sample_rate: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Frequency response of each ear on the circle, without the direct sound.

    A comb is 1 / (z**N - loop(z)). Of z**N at bin k = COLUMNS * i + j, one factor depends on i and
    one on j: an outer product of two short tables, and no exponential for each bin and comb.

    Shape:
        complex `[N, n_fft // 2 + 1]`, twice.
    """
    tables = tables_of(circle, sample_rate, dtype, room.delays.device)
    n_rows, (n_lines, _) = len(room.delays), tables.inverse.shape
    line = torch.arange(n_lines, device=room.delays.device) * COLUMNS
    column = torch.arange(COLUMNS, device=room.delays.device)
    delays = room.delays[..., None]  # [N, 16, 1]; angles are reduced as whole numbers
    growth = (circle.radius ** delays.double()).to(dtype)
    of_line = tables.roots[delays * line % circle.n_fft] * growth  # [N, 16, n_lines]
    of_column = tables.roots[delays * column % circle.n_fft]  # [N, 16, COLUMNS]

    feedback, damping = room.feedback.to(dtype), room.damping.to(dtype)
    # [N, n_lines, COLUMNS]; a complex division would cost as much as twelve reciprocals
    loop = (1 - damping * tables.inverse).reciprocal_().mul_(feedback * (1 - damping))
    comb = torch.empty_like(loop)
    responses = torch.empty((2, *loop.shape), dtype=loop.dtype, device=loop.device)
    for ear, total in enumerate(responses):
        for k in range(len(COMBS)):
            line_k, column_k = (table[:, len(COMBS) * ear + k] for table in (of_line, of_column))
            into = comb if k else total
            torch.mul(line_k[:, :, None], column_k[:, None, :], out=into)
            into.sub_(loop).reciprocal_()
            if k:
                total += comb
    responses *= tables.allpass[:, None]
    left, right = responses.view(2, n_rows, -1)[..., : circle.n_fft // 2 + 1]
    return left, right


class Tables(NamedTuple):
    """Constants of a circle.

    Shape:
        roots: complex `[n_fft]`, of unity.
        inverse: complex `[n_lines, COLUMNS]`, 1 / z.
        allpass: complex `[2, n_lines, COLUMNS]`, all-passes and level of each ear.
    """

    roots: Tensor
    inverse: Tensor
    allpass: Tensor


@lru_cache(maxsize=8)
def tables_of(
    circle: Circle, sample_rate: int, dtype: torch.dtype, device: torch.device
) -> Tables:
    """The constants of a circle, kept for the next call."""
    n_lines = -(-(circle.n_fft // 2 + 1) // COLUMNS)
    angle = torch.arange(circle.n_fft, dtype=torch.float64) * (2 * math.pi / circle.n_fft)
    roots = torch.polar(torch.ones_like(angle), angle)
    bins = torch.arange(n_lines * COLUMNS) % circle.n_fft
    z = circle.radius * roots[bins].view(n_lines, COLUMNS)
    allpass = torch.full((2, n_lines, COLUMNS), WET, dtype=z.dtype)
    for ear in range(2):
        for delay in _delays(ALLPASSES, ear):
            late = z ** -int(delay * sample_rate / 44_100 + 0.5)
            allpass[ear] *= (1.5 * late - 1) / (1 - 0.5 * late)
    as_asked = {"device": device, "dtype": torch.complex(*torch.empty(2, 0, dtype=dtype)).dtype}
    return Tables(roots.to(**as_asked), (1 / z).to(**as_asked), allpass.to(**as_asked))


@lru_cache(maxsize=8)
def _decay(
    circle: Circle, n_samples: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return (circle.radius ** -torch.arange(n_samples, dtype=torch.float64)).to(device, dtype)


@lru_cache(maxsize=8)
def _comb_delays(device: torch.device) -> Tensor:
    delays = [delay for ear in range(2) for delay in _delays(COMBS, ear)]
    return torch.tensor(delays, dtype=torch.float64, device=device)


def _delays(delays: tuple[int, ...], ear: int) -> list[int]:
    return [delay + ear * STEREO * (-1) ** k for k, delay in enumerate(delays)]
