"""Read rows between their samples in one kernel: no array of `TAPS` samples for each output."""

from __future__ import annotations

import torch
from torch import Tensor

from clmr.augmentations.kernels import jit, tl, triton

BLOCK = 1024  # outputs of a program


def read_rows(x: Tensor, step: Tensor, n_samples: int, polynomials: Tensor) -> Tensor:
    """Interpolate each row at 0, step, 2 * step, ...

    Args:
        x: Rows, the first tap of an output at its position rounded down.
        step: From an output to the next [samples].
        n_samples: Outputs of each row.
        polynomials: Coefficients of the taps, lowest power first.

    Shape:
        float32 `[N, L]`, float64 `[N]`, float32 `[P, taps]` -> float32 `[N, n_samples]`.
    """
    assert x.dtype == torch.float32
    x, step, polynomials = x.contiguous(), step.contiguous(), polynomials.contiguous()
    y = x.new_empty(len(x), n_samples)
    with torch.cuda.device_of(x):  # Triton launches on the current one
        _read[len(x), triton.cdiv(n_samples, BLOCK)](
            x, step, polynomials, y, x.shape[1], n_samples,
            POWERS=polynomials.shape[0], TAPS=polynomials.shape[1], BLOCK=BLOCK,
        )  # fmt: skip
    return y


@jit
def _read(
    x,
    step,
    polynomials,
    y,
    n_read,
    n_samples,
    POWERS: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = n < n_samples
    position = n.to(tl.float64) * tl.load(step + row)
    first = position.to(tl.int64)
    fraction = (position - first.to(tl.float64)).to(tl.float32)
    around = x + row * n_read + first
    total = tl.zeros([BLOCK], tl.float32)
    for tap in tl.static_range(TAPS):
        gain = tl.zeros([BLOCK], tl.float32)
        for power in tl.static_range(POWERS):
            coefficient = tl.load(polynomials + (POWERS - 1 - power) * TAPS + tap)
            gain = gain * fraction + coefficient
        total += gain * tl.load(around + tap, mask=inside, other=0.0)
    tl.store(y + row * n_samples + n, total, mask=inside)
