"""The chain of augmentations that makes a view out of a crop."""

import inspect
import weakref
from collections.abc import Mapping

import torch
from torch import Tensor

from clmr.augmentations.base import Augmentation, Draw, augment_copy


class Chain:
    """Augmentations one after the other, by name.

    Args:
        steps: Augmentations in order of application.
    """

    def __init__(self, steps: Mapping[str, Augmentation]) -> None:
        self.steps = dict(steps)
        _CHAINS[id(self)] = self

    def draw(self, n_rows: int) -> dict[str, Draw]:
        """Draw for every step of a batch; `apply` with the same draws gives the same views."""
        return {name: step.draw_batch(n_rows) for name, step in self.steps.items()}

    def apply(self, x: Tensor, draws: Mapping[str, Draw]) -> Tensor:
        """Apply what was drawn.

        Shape:
            float `[N, 1, T]` -> float `[N, 1, T]`, same dtype and device.
        """

        def apply_in_place(y: Tensor) -> None:
            for name, step in self.steps.items():
                step.apply_in_place(y, draws[name])

        return augment_copy(x, apply_in_place)

    def __call__(self, x: Tensor) -> Tensor:
        """Augment a batch, each row by itself.

        Shape:
            float `[N, 1, T]` -> float `[N, 1, T]`, same dtype and device.
        """
        if torch.compiler.is_compiling():
            return _augment(x, id(self))
        return self.apply(x, self.draw(len(x)))

    def __repr__(self) -> str:
        return "\n".join(
            f"transforms_{name}: {step.p}  # {step}" for name, step in self.steps.items()
        )


def drawn_for(draws: Mapping[str, Draw], row: int) -> dict[str, dict[str, float]]:
    """What was drawn for one row: the parameters of each step that its coin chose, by name."""
    chosen = {}
    for name, draw in draws.items():
        for k in torch.nonzero(draw.rows == row)[:, 0].tolist():
            chosen[name] = {key: value[k].item() for key, value in draw.parameters.items()}
    return chosen


def build_chain(
    registry: Mapping[str, type[Augmentation]],
    probabilities: Mapping[str, float],
    sample_rate: int,
    generator: torch.Generator | None = None,
    chunk: int | None = None,
) -> Chain:
    """Build a chain in the order of the registry, without those of probability 0.

    Args:
        registry: Augmentations by name; one that asks for a `sample_rate` is given it.
        probabilities: Probability of each, by the same names.
        sample_rate: Of the waveforms [Hz].
        generator: Source of all randomness.
        chunk: Rows that are transformed at a time; None is what suits the device.

    Raises:
        ValueError: A step does not do at this sample rate; with its name.
    """
    steps = {}
    for name, kind in registry.items():
        if probabilities[name] == 0:
            continue
        asks_rate = "sample_rate" in inspect.signature(kind).parameters
        rate = {"sample_rate": sample_rate} if asks_rate else {}
        try:
            steps[name] = kind(p=probabilities[name], generator=generator, **rate)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        steps[name].chunk = chunk
    return Chain(steps)


# To the compiler a chain is one operation: it cannot follow the draws, and would break its graph.
_CHAINS: "weakref.WeakValueDictionary[int, Chain]" = weakref.WeakValueDictionary()


@torch.library.custom_op(
    "clmr::augment",
    mutates_args=(),
    tags=(torch.Tag.nondeterministic_seeded, torch.Tag.cudagraph_unsafe),
)
def _augment(x: Tensor, chain: int) -> Tensor:
    chain = _CHAINS[chain]
    return chain.apply(x, chain.draw(len(x)))


@_augment.register_fake
def _(x: Tensor, chain: int) -> Tensor:
    return torch.empty_like(x)
