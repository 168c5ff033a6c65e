"""The frame of all augmentations: a coin and parameters for each row, drawn first, then applied."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from clmr.augmentations.one_thread import one_thread

Parameters = dict[str, Tensor]

# On a GPU the last of the chosen rows is repeated until their number divides by this: FFTs are
# planned for each number of rows, and coins would ask for another plan at almost every step.
MULTIPLE = 16


class Draw(NamedTuple):
    """What was drawn for a batch: the rows that the coin chose, and a value a row of each name."""

    rows: Tensor
    parameters: Parameters


class Augmentation:
    """Apply a transform to each row of a batch with probability p, each with its own parameters.

    A new one writes `draw` and `apply`; both see the chosen rows only. All draws are made on the
    host, from the generator that was handed in, so that a seed gives the same draws on any device.
    (It is no `nn.Module`: it has no weights, and `apply` would hide that of modules.)

    Attributes:
        chunk: Rows that are transformed at a time, which bounds memory; None is a number of
            `samples_at_once`: on the CPU as many as its caches hold.

    Args:
        p: Probability that a row is transformed.
        generator: Source of all randomness, on the CPU; None is torch's global one.

    Raises:
        ValueError: p is not in [0, 1].
    """

    chunk: int | None = None
    samples_at_once = {"cpu": 2**19, "cuda": 2**25}

    def __init__(self, p: float, generator: torch.Generator | None = None) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p: got {p}, allowed: 0 to 1")
        self.p = p
        self.generator = generator

    def draw(self, n: int) -> Parameters:
        """Draw the parameters of n rows: tensors `[n]` by name."""
        return {}

    def apply(self, x: Tensor, parameters: Parameters) -> Tensor:
        """Transform rows, leaving `x` as it is; the parameters are on its device.

        Shape:
            float `[n, 1, T]` -> float `[n, 1, T]`.
        """
        raise NotImplementedError

    def draw_batch(self, n_rows: int) -> Draw:
        """Toss the coins of a batch and draw the parameters of the rows that they choose."""
        coins = self.uniform(n_rows, 0, 1)
        rows = torch.nonzero(coins < self.p)[:, 0]
        return Draw(rows, self.draw(len(rows)))

    def apply_batch(self, x: Tensor, draw: Draw) -> Tensor:
        """Apply what was drawn to a batch, leaving `x` as it is."""
        return augment_copy(x, lambda y: self.apply_in_place(y, draw))

    def apply_in_place(self, x: Tensor, draw: Draw) -> None:
        """Apply what was drawn to a batch, some rows at a time."""
        if not len(draw.rows):
            return
        samples_at_once = self.samples_at_once["cuda" if x.is_cuda else "cpu"]
        n_at_once = self.chunk or max(1, samples_at_once // x.shape[-1])
        for part in torch.arange(len(draw.rows)).split(n_at_once):
            n = len(part)
            if x.is_cuda:
                n_spare = -n % min(MULTIPLE, n_at_once)
                part = torch.nn.functional.pad(part, (0, n_spare), value=part[-1])
            rows = _send(draw.rows[part], x.device)
            own = {name: _send(value[part], x.device) for name, value in draw.parameters.items()}
            y = self.apply(x.index_select(0, rows), own)
            x.index_copy_(0, rows[:n], y[:n].to(x.dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """Augment a batch.

        Shape:
            float `[N, 1, T]` -> float `[N, 1, T]`, same dtype and device.
        """
        return self.apply_batch(x, self.draw_batch(len(x)))

    def uniform(self, n: int, low: float, high: float) -> Tensor:
        """Draw n values, uniform in [low, high), float32 `[n]`."""
        unit = torch.rand(n, generator=self.generator, dtype=torch.float32)
        return low + (high - low) * unit

    def integers(self, n: int, low: int, high: int) -> Tensor:
        """Draw n whole numbers, uniform in [low, high), int64 `[n]`; `low` if both are equal."""
        return torch.randint(low, max(high, low + 1), (n,), generator=self.generator)

    def __repr__(self) -> str:
        shown = {k: v for k, v in vars(self).items() if k not in ("generator", "chunk")}
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in shown.items())})"


def augment_copy(x: Tensor, apply_in_place: Callable[[Tensor], None]) -> Tensor:
    """Copy a batch and change the copy: without gradient, and in float32 at least.

    Half precision would be heard, and is what autocast would compute in.
    """
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    cores = nullcontext() if x.is_cuda else one_thread()
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False), cores:
        y = x.to(dtype, copy=True)
        apply_in_place(y)
    return y.to(x.dtype)


def check_range(name: str, low: float, high: float, least: float, most: float) -> None:
    """Refuse a range of a parameter that makes no sense.

    Raises:
        ValueError: Not least <= low <= high <= most.
    """
    if not least <= low <= high <= most:
        raise ValueError(f"{name}: got {low} to {high}, allowed: a range within {least} to {most}")


def _send(value: Tensor, device: torch.device) -> Tensor:
    """Copy to the device without waiting for it, which a copy of pageable memory would."""
    if device.type != "cuda":
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)
