"""Contrast of many views in strips of the similarity matrix, so that it is never whole in memory.

A strip is a few rows against all columns. The backward pass computes each a second time, so that
memory grows with the number of views, not with its square.

To the compiler each pass is one operation: it would unroll the loop over strips.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

STRIP = 256  # rows; on a CPU 32 to 1,024 take the same time within a quarter


def strip_losses(rows: Tensor, columns: Tensor, twin: Tensor, hidden: Tensor) -> Tensor:
    """Loss of each row, as `clmr.losses.pairs.row_losses` defines it.

    Shape:
        float `[R, D]`, float `[C, D]`, int64 `[R]`, int64 `[R, H]` -> float `[R]`.
    """
    return _losses(rows, columns, twin, hidden)


def _strips(
    rows: Tensor, columns: Tensor, twin: Tensor, hidden: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Similarity of each view less that to its twin `[S, C]`, a strip at a time.

    All strips lie in the same memory: a new one each would leave holes that glibc cannot fill.
    """
    strip = rows.new_empty(min(STRIP, len(rows)), len(columns))
    for first in range(0, len(rows), STRIP):
        part = slice(first, first + STRIP)
        logits = torch.mm(rows[part], columns.T, out=strip[: len(rows) - first])
        logits -= logits.gather(1, twin[part, None])
        yield part, logits.scatter_(1, hidden[part], -torch.inf)


@torch.library.custom_op("clmr::strip_losses", mutates_args=())
def _losses(rows: Tensor, columns: Tensor, twin: Tensor, hidden: Tensor) -> Tensor:
    losses = rows.new_empty(len(rows))
    for part, logits in _strips(rows, columns, twin, hidden):
        torch.logsumexp(logits, 1, out=losses[part])
    return losses


@torch.library.custom_op("clmr::strip_gradients", mutates_args=())
def _gradients(
    gradient: Tensor,
    losses: Tensor,
    rows: Tensor,
    columns: Tensor,
    twin: Tensor,
    hidden: Tensor,
) -> tuple[Tensor, Tensor]:
    to_rows, to_columns = torch.empty_like(rows), torch.zeros_like(columns)
    # Whoever calls backward within autocast would have these products in half precision.
    with torch.autocast(rows.device.type, enabled=False):
        for part, logits in _strips(rows, columns, twin, hidden):
            softmax = logits.sub_(losses[part, None]).exp_()
            softmax.scatter_add_(1, twin[part, None], -torch.ones_like(losses[part, None]))
            softmax *= gradient[part, None]
            torch.mm(softmax, columns, out=to_rows[part])
            to_columns.addmm_(softmax.T, rows[part])
    return to_rows, to_columns


@_losses.register_fake
def _(rows, columns, twin, hidden):
    return rows.new_empty(len(rows))


@_gradients.register_fake
def _(gradient, losses, rows, columns, twin, hidden):
    return torch.empty_like(rows), torch.empty_like(columns)


def _remember(ctx, inputs, output) -> None:
    ctx.save_for_backward(output, *inputs)


def _backward(ctx, gradient: Tensor) -> tuple:
    to_rows, to_columns = _gradients(gradient, *ctx.saved_tensors)
    return to_rows, to_columns, None, None


_losses.register_autograd(_backward, setup_context=_remember)
