"""White noise, at a level relative to the signal's."""

import math

import torch
from torch import Tensor

from clmr.augmentations.base import Augmentation, Parameters, check_range


class Noise(Augmentation):
    """Add white Gaussian noise.

    Args:
        p: Probability that a row is transformed.
        min_snr: Smallest standard deviation of the noise, as a share of the row's. (The name is
            that of the reference; it is a noise-to-signal ratio of amplitudes.)
        max_snr: Largest.
        generator: Source of all randomness.
    """

    def __init__(
        self,
        p: float,
        min_snr: float = 1e-4,
        max_snr: float = 1e-2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(p, generator)
        check_range("snr", min_snr, max_snr, 0, math.inf)
        self.min_snr, self.max_snr = min_snr, max_snr

    def draw(self, n: int) -> Parameters:
        # A seed a row, not the noise itself: its length is not known yet, and a row's noise must
        # not depend on the other rows.
        seed = torch.randint(2**63 - 1, (n,), generator=self.generator)
        return {"snr": self.uniform(n, self.min_snr, self.max_snr), "seed": seed}

    def apply(self, x: Tensor, parameters: Parameters) -> Tensor:
        deviation = x.std(dim=-1, keepdim=True, correction=min(1, x.shape[-1] - 1))
        sigma = parameters["snr"].to(x.dtype)[:, None, None] * deviation
        return x + sigma * white_noise(parameters["seed"], x.shape[-1]).to(x.dtype)[:, None]


def white_noise(seed: Tensor, n_samples: int) -> Tensor:
    """Standard normal numbers that depend on the seed of the row alone, not on the device.

    A hash of seed and sample number gives each sample two uniform numbers, and the method of Box
    and Muller (1958) makes a normal one of them.

    Shape:
        int64 `[N]` -> float64 `[N, n_samples]`.
    """
    n = torch.arange(1, n_samples + 1, device=seed.device)
    bits = _mix(_mix(seed)[:, None] + n * -0x61C8864680B583EB)  # [N, n_samples]
    u = ((bits >> 32 & 0xFFFFFFFF).double() + 0.5) / 2**32
    v = ((bits & 0xFFFFFFFF).double() + 0.5) / 2**32
    return torch.sqrt(-2 * torch.log(u)) * torch.cos(2 * math.pi * v)


def _mix(k: Tensor) -> Tensor:
    """Scramble int64: the finaliser of SplitMix64 (Steele, Lea & Flood 2014)."""
    k = (k ^ (k >> 30 & 2**34 - 1)) * -0x40A7B892E31B1A47
    k = (k ^ (k >> 27 & 2**37 - 1)) * -0x6B2FB644ECCEEE15
    return k ^ (k >> 31 & 2**33 - 1)
