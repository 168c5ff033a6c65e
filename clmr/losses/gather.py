"""The projections of all devices, with their gradient."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def in_float32(z: Tensor) -> Tensor:
    """Half precision in float32; float64 stays."""
    return z.to(torch.promote_types(z.dtype, torch.float32))


def gather(rows: Tensor) -> Tensor:
    """Rows of device 0, then of device 1, and so on; equally many of each.

    Each device's gradient of the result comes back to the device that has the row. With the mean
    over devices, which data-parallel training takes, that is the gradient of the whole batch.

    Shape:
        float `[R, D]` -> float `[RW, D]` over W devices.
    """
    return torch.cat(all_gather(rows)) if _distributed() else rows


def rank() -> int:
    """Number of this device among all."""
    return dist.get_rank() if _distributed() else 0


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
