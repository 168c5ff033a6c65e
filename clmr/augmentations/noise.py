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
        sigma = parameters["snr"].to(x.dtype)[:, None, None] * x.std(dim=-1, keepdim=True)
        noise = [_noise(seed, x.shape[-1]) for seed in parameters["seed"].tolist()]
        return x + sigma * torch.stack(noise)[:, None].to(x)


def _noise(seed: int, n_samples: int) -> Tensor:
    """On the host, so that a seed gives the same noise on any device."""
    return torch.randn(n_samples, generator=torch.Generator().manual_seed(seed))
