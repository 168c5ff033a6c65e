"""NT-Xent, the contrastive loss of SimCLR (Chen et al. 2020, arXiv:2002.05709), on any devices."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather


class NTXent(nn.Module):
    """Normalised temperature-scaled cross-entropy: which of all other views is this one's twin?

    Each device compares its own rows with the columns of all devices. The columns are gathered
    with their gradient, so that the mean over devices, which data-parallel training takes, is
    exactly the loss and the gradient of the whole batch on one device.

    Args:
        temperature: Divides the cosine similarities.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature: got {temperature}, allowed: above 0")
        self.temperature = temperature

    def forward(self, z_i: Tensor, z_j: Tensor) -> Tensor:
        """Mean loss of this device's 2B views, in float32 whatever the projections are.

        Args:
            z_i: Projections of the first views.
            z_j: Projections of the second views; row k is of the same clip as row k of `z_i`.

        Shape:
            float `[B, D]`, float `[B, D]` -> float32 `[]`; B is equal on all devices.
        """
        with torch.autocast(z_i.device.type, enabled=False):
            rows = F.normalize(torch.cat([z_i, z_j]).float(), dim=1)  # [2B, D]
            columns = torch.cat(_gather(rows))  # [2BW, D]: device 0's views, then device 1's, ...
            logits = rows @ columns.T / self.temperature  # [2B, 2BW]
            own, twin = _own_and_twin(len(z_i), z_i.device)
            logits = logits.scatter(1, own[:, None], -torch.inf)
            return F.cross_entropy(logits, twin)


def _gather(rows: Tensor) -> tuple[Tensor, ...]:
    if not (dist.is_available() and dist.is_initialized()):
        return (rows,)
    return tuple(all_gather(rows))


def _own_and_twin(n_clips: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Columns of each row itself and of the other view of its clip, int64 `[2B]` each."""
    initialized = dist.is_available() and dist.is_initialized()
    first = 2 * n_clips * dist.get_rank() if initialized else 0
    own = torch.arange(2 * n_clips, device=device)
    return first + own, first + own.roll(n_clips)
