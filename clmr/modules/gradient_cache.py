"""Batches beyond memory: projections chunk by chunk, with the gradient of the whole batch."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def project_in_chunks(
    model: nn.Module, x_i: Tensor, x_j: Tensor, n_clips: int
) -> tuple[Tensor, Tensor]:
    """Project both views of a batch, keeping what backward needs of one chunk at a time.

    Gradient caching (Gao et al. 2021, arXiv:2101.06983): the first pass keeps projections only,
    the loss is that of the whole batch, and backward encodes each chunk once more. All is exact
    but batch norm, whose statistics are those of a chunk.

    Args:
        model: From two views to `h_i, h_j, z_i, z_j`, as `simclr.SimCLR`.
        x_i: One view of each clip.
        x_j: The other view.
        n_clips: The most clips in a chunk; chunks differ by one clip at most, since a batch norm
            takes no single one.

    Shape:
        float `[B, 1, T]`, float `[B, 1, T]` -> float `[B, D]`, float `[B, D]`.
    """

    def project(x_i: Tensor, x_j: Tensor) -> tuple[Tensor, Tensor]:
        return model(x_i, x_j)[2:]

    n_chunks = -(-len(x_i) // n_clips)
    chunks = zip(x_i.tensor_split(n_chunks), x_j.tensor_split(n_chunks), strict=True)
    z = [
        checkpoint(project, *chunk, use_reentrant=False, context_fn=_first_and_second_pass(model))
        for chunk in chunks
    ]
    z_i, z_j = map(torch.cat, zip(*z, strict=True))
    return z_i, z_j


def _first_and_second_pass(
    model: nn.Module,
) -> Callable[[], tuple[AbstractContextManager, AbstractContextManager]]:
    return lambda: (nullcontext(), _statistics_kept(model))


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Let batch norms keep their running statistics, which have seen the chunk already."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(b, b.clone()) for norm in norms for b in norm.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.data.copy_(value)  # unseen by autograd, for which nothing has changed
