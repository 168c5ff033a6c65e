"""What NT-Xent and its decoupled form share: every view beside all others, on any devices."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clmr.losses.gather import gather, in_float32, rank
from clmr.losses.strips import strip_losses

STRIPS_ABOVE = 1024  # columns; on a CPU strips are faster from there (benchmarks/nt_xent.py)


class PairLoss(nn.Module):
    """Which of all other views is this one's twin?

    Each device compares its own rows with the columns of all devices. The columns are gathered
    with their gradient, so that the mean over devices, which data-parallel training takes, is
    exactly the loss and the gradient of the whole batch on one device.

    Args:
        temperature: Divides the cosine similarities.
        strips_above: With more columns (two for each clip of all devices) the similarity matrix
            is computed in strips, and again in the backward pass, which takes memory in
            proportion to the columns and not to their square.
    """

    decoupled: bool  # the twin is not among those that a view is told from

    def __init__(self, temperature: float, strips_above: int = STRIPS_ABOVE) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature: got {temperature}, allowed: above 0")
        self.temperature = temperature
        self.strips_above = strips_above

    def forward(self, z_i: Tensor, z_j: Tensor) -> Tensor:
        """Mean loss of this device's 2B views; half precision is compared in float32.

        Args:
            z_i: Projections of the first views.
            z_j: Projections of the second views; row k is of the same clip as row k of `z_i`.

        Shape:
            float `[B, D]`, float `[B, D]` -> float32 `[]`; B is equal on all devices.
        """
        with torch.autocast(z_i.device.type, enabled=False):
            rows = F.normalize(in_float32(torch.cat([z_i, z_j])), dim=1)  # [2B, D]
            columns = gather(rows)  # [2BW, D]: device 0's views, then device 1's, ...
            if len(columns) == 2:
                return 0 * rows.sum()  # one clip has no other to be told from
            own, twin = _own_and_twin(len(z_i), z_i.device)
            hidden = torch.stack([own, twin] if self.decoupled else [own], dim=1)
            compare = strip_losses if len(columns) > self.strips_above else row_losses
            return compare(rows / self.temperature, columns, twin, hidden).mean()


def row_losses(rows: Tensor, columns: Tensor, twin: Tensor, hidden: Tensor) -> Tensor:
    """Log of the sum of exp(similarity - similarity to the twin) over the columns not hidden.

    Args:
        rows: Views, divided by the temperature.
        columns: Views of all devices.
        twin: Column of the other view of each row's clip.
        hidden: Columns that a row is not compared with; itself at least.

    Shape:
        float `[R, D]`, float `[C, D]`, int64 `[R]`, int64 `[R, H]` -> float `[R]`.
    """
    logits = rows @ columns.T  # [R, C]
    similarity = logits.gather(1, twin[:, None])
    return (logits - similarity).scatter(1, hidden, -torch.inf).logsumexp(1)


def _own_and_twin(n_clips: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Columns of each row itself and of the other view of its clip, int64 `[2B]` each."""
    own = torch.arange(2 * n_clips, device=device)
    first = 2 * n_clips * rank()
    return first + own, first + own.roll(n_clips)
