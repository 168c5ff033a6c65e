"""The splice search of `wsola.py` in one kernel: no launch for each segment."""

from __future__ import annotations

import torch
from torch import Tensor

from clmr.augmentations.kernels import jit, tl, triton

UNROLLED = 8  # loads in flight; divides every overlap
WARPS = 8  # more lanes a thread share what is loaded of the template, fewer wait longer


def search_splices(padded: Tensor, first: Tensor, search: int, overlap: int, hop: int) -> Tensor:
    """Choose where each segment starts: each row in one program, without a launch a segment.

    Args:
        padded: Waveforms with `search // 2` samples of silence before them, and after them enough
            for the last search.
        first: First candidate of each segment's start; beyond the first segment, which starts
            `search // 2` samples after it, one of `search` candidates is chosen.
        search: Candidates of a start.
        overlap: Samples that are compared, a multiple of 8.
        hop: Samples from the start of a segment to those that the next one shall resemble.

    Returns:
        Sample of `padded` at which each segment starts.

    Shape:
        float32 `[N, L]`, int64 `[N, S]` -> int64 `[N, S]`.
    """
    assert padded.dtype == torch.float32
    assert overlap % UNROLLED == 0
    padded, first = padded.contiguous(), first.contiguous()
    starts = torch.empty_like(first)
    with torch.cuda.device_of(padded):  # Triton launches on the current one
        _search[len(first),](
            padded, first, starts, padded.shape[1], first.shape[1], search, overlap, hop,
            LANES=triton.next_power_of_2(search), UNROLLED=UNROLLED, num_warps=WARPS,
        )  # fmt: skip
    return starts


@jit
def _search(
    padded,
    first,
    starts,
    n_samples,
    n_segments,
    search,
    overlap,
    hop,
    LANES: tl.constexpr,
    UNROLLED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    padded += row * n_samples
    first += row * n_segments
    starts += row * n_segments
    lane = tl.arange(0, LANES)
    chosen = tl.load(first) + search // 2
    tl.store(starts, chosen)
    for s in range(1, n_segments):
        begin = tl.load(first + s)
        template = padded + chosen + hop
        candidates = padded + begin + lane
        distance = tl.where(lane < search, 0.0, float("inf"))
        for j in range(0, overlap, UNROLLED):
            for k in tl.static_range(UNROLLED):  # loads that do not wait for each other
                x = tl.load(candidates + (j + k), mask=lane < search, other=0.0)
                difference = x - tl.load(template + (j + k))
                distance += difference * difference
        best = tl.argmin(distance, axis=0)  # the first of equals
        chosen = begin + tl.minimum(best, search - 1)  # NaN may choose a lane beyond the search
        tl.store(starts + s, chosen)
