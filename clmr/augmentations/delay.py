"""Delay: one echo."""

import math

import torch
from torch import Tensor

from clmr.augmentations.base import Augmentation, Parameters, check_range


class Delay(Augmentation):
    """Mix with an echo: y[n] = (x[n] + volume_factor * x[n - offset]) / 2, silence before x.

    The delay is one of min_delay_ms, min_delay_ms + delay_interval_ms, ... below max_delay_ms.

    Args:
        p: Probability that a row is transformed.
        sample_rate: Of the input [Hz].
        volume_factor: Amplitude of the echo.
        min_delay_ms: Shortest delay [ms].
        max_delay_ms: Delays stay below it [ms]; equal to `min_delay_ms` it fixes the delay.
        delay_interval_ms: Step between two delays [ms].
        generator: Source of all randomness.
    """

    def __init__(
        self,
        p: float,
        sample_rate: int,
        volume_factor: float = 0.5,
        min_delay_ms: int = 200,
        max_delay_ms: int = 500,
        delay_interval_ms: int = 50,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(p, generator)
        check_range("delay_ms", min_delay_ms, max_delay_ms, 0, math.inf)
        check_range("delay_interval_ms", delay_interval_ms, delay_interval_ms, 1, math.inf)
        self.sample_rate = sample_rate
        self.volume_factor = volume_factor
        self.delays_ms = range(min_delay_ms, max_delay_ms, delay_interval_ms) or [min_delay_ms]

    def draw(self, n: int) -> Parameters:
        delays_ms = torch.tensor(list(self.delays_ms))
        choice = torch.randint(len(delays_ms), (n,), generator=self.generator)
        return {"delay_ms": delays_ms[choice]}

    def apply(self, x: Tensor, parameters: Parameters) -> Tensor:
        n_rows, _, n_samples = x.shape
        offset = (parameters["delay_ms"] * self.sample_rate // 1000).clamp(max=n_samples)
        # Each echo is one slice of all rows in a line, with silence before each: one copy a row.
        line = torch.nn.functional.pad(x, (n_samples, 0)).flatten()
        start = torch.arange(1, 2 * n_rows, 2, device=x.device) * n_samples - offset
        echo = line.unfold(0, n_samples, 1).index_select(0, start)[:, None]
        return torch.add(x, echo, alpha=self.volume_factor) / 2
