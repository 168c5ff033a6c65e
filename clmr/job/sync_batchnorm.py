"""Batch normalisation over the batch of all processes, on the CPU.

On GPUs torch's own `SyncBatchNorm` does it, which refuses tensors of the CPU.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pytorch_lightning.plugins import LayerSync
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """Normalise by mean and variance of all processes' batches, which are equally large.

    Evaluation is that of any batch norm, and so are the parameters and buffers with their names.

    Args:
        plain: The layer that it stands for, whose parameters and buffers it takes.

    Shape:
        float `[B, C, ...]` -> float `[B, C, ...]`.
    """

    def __init__(self, plain: _BatchNorm) -> None:
        super().__init__(
            plain.num_features,
            plain.eps,
            plain.momentum,
            plain.affine,
            plain.track_running_stats,
            device="meta",
        )
        self._parameters, self._buffers = plain._parameters, plain._buffers
        self.train(plain.training)
        self.__dict__["plain"] = plain  # no submodule, which would have names of its own

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.plain.eval()(x)
        y, mean, variance = _Normalize.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self._track(mean, variance, dist.get_world_size() * x.numel() // x.shape[1])
        return y

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, n: int) -> None:
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # the mean of all batches so far
            momentum = 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        unbiased = variance * (n / (n - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


class _Normalize(torch.autograd.Function):
    """The batch norm of all processes: each has a part of the batch, and of the gradient.

    With the mean of gradients over processes, which data-parallel training takes, the gradients
    are those of the whole batch in one process.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = _moments(x)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        scale = (variance + ctx.eps).rsqrt()  # [C]
        # As if mean and variance were constants, which leaves their part of the gradient of x.
        unit = torch.ones_like(mean) if weight is None else weight
        dx, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(
            dy, x, unit, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([d_weight, d_bias])  # [2, C]
        dist.all_reduce(sums)
        sums *= unit * scale / (dist.get_world_size() * x.numel() // x.shape[1])
        slope, offset, mean = (_by_channel(v, x) for v in (sums[0] * scale, sums[1], mean))
        dx -= (x - mean).mul_(slope).add_(offset)  # in float32 at least
        return dx, *((None, None) if weight is None else (d_weight, d_bias)), None


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of each channel over all processes, float `[C]` each."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    unused = torch.zeros(2, x.shape[1], dtype=dtype)  # says in what to compute
    own = torch.stack(torch.batch_norm_update_stats(x, *unused, 0.0))  # [2, C]
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    means, variances = torch.stack(parts, dim=1)  # [W, C] each
    return means.mean(0), variances.mean(0) + means.var(0, correction=0)


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *[1] * (x.dim() - 2))


class SyncOnCpu(LayerSync):
    """Lightning's plugin for it: while it trains, all batch norms are over all processes."""

    def apply(self, model: nn.Module) -> nn.Module:
        return _replaced(model, _BatchNorm, SyncBatchNorm)

    def revert(self, model: nn.Module) -> nn.Module:
        return _replaced(model, SyncBatchNorm, lambda layer: layer.plain)


def _replaced(model: nn.Module, kind: type[nn.Module], make: Any) -> nn.Module:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, kind):
                setattr(module, name, make(child))
    return model
