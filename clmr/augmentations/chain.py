"""The chain of augmentations that makes a view out of a crop."""

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor

from clmr.augmentations.base import Augmentation, Draw


class Chain:
    """Augmentations one after the other, by name.

    Args:
        steps: Augmentations in order of application.
    """

    def __init__(self, steps: Mapping[str, Augmentation]) -> None:
        self.steps = dict(steps)

    def draw(self, n_rows: int) -> dict[str, Draw]:
        """Draw for every step of a batch; `apply` with the same draws gives the same views."""
        return {name: step.draw_batch(n_rows) for name, step in self.steps.items()}

    @torch.no_grad()
    def apply(self, x: Tensor, draws: Mapping[str, Draw]) -> Tensor:
        """Apply what was drawn.

        Shape:
            float `[N, 1, T]` -> float `[N, 1, T]`.
        """
        for name, step in self.steps.items():
            x = step.apply_batch(x, draws[name])
        return x

    def __call__(self, x: Tensor) -> Tensor:
        """Augment a batch, each row by itself.

        Shape:
            float `[N, 1, T]` -> float `[N, 1, T]`.
        """
        return self.apply(x, self.draw(len(x)))

    def __repr__(self) -> str:
        lines = [f"    {name}: {step}" for name, step in self.steps.items()]
        return "\n".join(["Chain(", *lines, ")"])


def build_chain(
    registry: Mapping[str, type[Augmentation]],
    probabilities: Mapping[str, float],
    sample_rate: int,
    generator: torch.Generator | None = None,
) -> Chain:
    """Build a chain in the order of the registry.

    Args:
        registry: Augmentations by name; one that asks for a `sample_rate` is given it.
        probabilities: Probability of each, by the same names.
        sample_rate: Of the waveforms [Hz].
        generator: Source of all randomness.
    """
    steps = {}
    for name, kind in registry.items():
        asks_rate = "sample_rate" in inspect.signature(kind).parameters
        rate = {"sample_rate": sample_rate} if asks_rate else {}
        steps[name] = kind(p=probabilities[name], generator=generator, **rate)
    return Chain(steps)
