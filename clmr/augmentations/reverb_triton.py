"""The reverb's response times a spectrum in one kernel: no response is ever stored."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clmr.augmentations.kernels import jit, tl, triton

BLOCK = 256  # bins of a program


def multiply_by_response(
    spectra: Tensor,
    feedback: Tensor,
    damping: Tensor,
    delays: Tensor,
    inverse: Tensor,
    allpass: Tensor,
    n_fft: int,
    radius: float,
) -> None:
    """Multiply each row, in place, by 1 + half the sum of the wet responses of both ears.

    Args:
        spectra: On the circle of `n_fft` and `radius`.
        feedback: Of the combs of each row.
        damping: Coefficient of the low-pass in their loops.
        delays: Of the combs, those of the first ear, then those of the second [samples].
        inverse: 1 / z of each bin, at least as many as there are.
        allpass: All-passes and level of each ear, at as many bins.
        n_fft: Of the spectra, below 2 ** 29.
        radius: Of the circle.

    Shape:
        complex64 `[N, n_fft // 2 + 1]`, float `[N, 1, 1]`, `[N, 1, 1]`, int64 `[N, 2 * C]`,
        complex64 `[n_lines, n_columns]`, `[2, n_lines, n_columns]`.
    """
    assert spectra.is_contiguous()
    assert spectra.dtype == allpass.dtype == torch.complex64
    n_rows, n_bins = spectra.shape
    with torch.cuda.device_of(spectra):  # Triton launches on the current one
        _multiply[n_rows, triton.cdiv(n_bins, BLOCK)](
            torch.view_as_real(spectra),
            feedback.float().contiguous(),
            damping.float().contiguous(),
            delays.contiguous(),
            (radius ** delays.double()).float().contiguous(),
            torch.view_as_real(inverse.contiguous()),
            torch.view_as_real(allpass.contiguous()),
            n_bins,
            inverse.numel(),
            N_FFT=n_fft,
            QUARTER=math.pi / 2 / n_fft,
            COMBS=delays.shape[1] // 2,
            BLOCK=BLOCK,
        )


@jit
def _multiply(
    spectra,
    feedback,
    damping,
    delays,
    growth,
    inverse,
    allpass,
    n_bins,
    n_table,
    N_FFT: tl.constexpr,
    QUARTER: tl.constexpr,
    COMBS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    block_start = tl.program_id(1).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    k = block_start + lane
    inside = k < n_bins
    g = tl.load(feedback + row)
    d = tl.load(damping + row)
    inverse_re, inverse_im = _load(inverse, k, inside)
    loop_re, loop_im = _reciprocal(1 - d * inverse_re, -d * inverse_im)
    loop_re *= g * (1 - d)
    loop_im *= g * (1 - d)

    wet_re = tl.zeros([BLOCK], tl.float32)
    wet_im = tl.zeros([BLOCK], tl.float32)
    for ear in tl.static_range(2):
        sum_re = tl.zeros([BLOCK], tl.float32)
        sum_im = tl.zeros([BLOCK], tl.float32)
        for comb in range(ear * COMBS, (ear + 1) * COMBS):
            delay = tl.load(delays + row * (2 * COMBS) + comb)
            size = tl.load(growth + row * (2 * COMBS) + comb)
            # One division of long integers a program; the others are of short ones.
            turns = (delay * block_start % N_FFT).to(tl.int32)
            cos, sin = _unit((turns + delay.to(tl.int32) * lane) % N_FFT, N_FFT, QUARTER)
            re, im = _reciprocal(size * cos - loop_re, size * sin - loop_im)
            sum_re += re
            sum_im += im
        gain_re, gain_im = _load(allpass, ear * n_table + k, inside)
        wet_re += gain_re * sum_re - gain_im * sum_im
        wet_im += gain_re * sum_im + gain_im * sum_re

    at = row * n_bins + k
    x_re, x_im = _load(spectra, at, inside)
    wet_re = 1 + wet_re / 2
    wet_im = wet_im / 2
    tl.store(spectra + 2 * at, x_re * wet_re - x_im * wet_im, mask=inside)
    tl.store(spectra + 2 * at + 1, x_re * wet_im + x_im * wet_re, mask=inside)


@jit
def _unit(m, N_FFT: tl.constexpr, QUARTER: tl.constexpr):
    """Cosine and sine of m / N_FFT turns, 0 <= m < N_FFT.

    The nearest quarter of a turn is taken off in integers, so that the angle which is left is below
    pi / 4 and as exact as float32 can be; there few terms of the Taylor series do.
    """
    quarters = (4 * m + N_FFT // 2) // N_FFT
    angle = (4 * m - quarters * N_FFT).to(tl.float32) * QUARTER
    q = angle * angle
    sin = angle * (1 + q * (-1 / 6 + q * (1 / 120 + q * (-1 / 5040 + q * (1 / 362880)))))
    cos = 1 + q * (-1 / 2 + q * (1 / 24 + q * (-1 / 720 + q * (1 / 40320))))
    odd = quarters % 2 == 1
    cos, sin = tl.where(odd, sin, cos), tl.where(odd, cos, sin)
    cos = tl.where((quarters == 1) | (quarters == 2), -cos, cos)
    sin = tl.where((quarters == 2) | (quarters == 3), -sin, sin)
    return cos, sin


@jit
def _reciprocal(re, im):
    scale = 1 / (re * re + im * im)
    return re * scale, -im * scale


@jit
def _load(values, at, inside):
    """Read complex numbers, of which the real part is followed by the imaginary one."""
    re = tl.load(values + 2 * at, mask=inside, other=0.0)
    im = tl.load(values + 2 * at + 1, mask=inside, other=0.0)
    return re, im
