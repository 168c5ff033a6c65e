"""The chain of the package torchaudio-augmentations, which CLMR's own code used."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from clmr.augmentations.effect_chain import register_effect_chain
from clmr.augmentations.one_thread import one_thread

LONGEST_DELAY_S = 0.45


class ReferenceChain:
    """Augment one crop by the package's classes, with its own draws, as CLMR's code did.

    They draw from the three generators that a process has for all. Each call seeds these and puts
    them back, so that what is drawn is a function of the seed alone.

    Args:
        probabilities: Probability of each step, by the names of `AUGMENTATIONS`.
        sample_rate: Of the crops [Hz].
        n_samples: Length T of a crop.

    Raises:
        ValueError: A crop is shorter than a delay can be, which the package does not expect.
    """

    def __init__(
        self, probabilities: Mapping[str, float], sample_rate: int, n_samples: int
    ) -> None:
        longest = int(LONGEST_DELAY_S * sample_rate)
        if probabilities["delay"] and n_samples < longest:
            raise ValueError(f"delay: got crops of {n_samples} samples for one of {longest}")
        self._settings = (dict(probabilities), sample_rate, n_samples)
        self.augment = _compose(list(reference_steps(*self._settings).values()))

    def __call__(self, x: Tensor, seed: int) -> Tensor:
        """Augment a crop, leaving it as it is.

        Shape:
            float32 `[1, T]` -> float32 `[1, T]`.
        """
        with torch.no_grad(), _seeded(seed), one_thread():
            return self.augment(x)

    def __reduce__(self) -> tuple:
        # A process that is spawned builds its own: without ours it could not import the package.
        return ReferenceChain, self._settings


def reference_steps(
    probabilities: Mapping[str, float], sample_rate: int, n_samples: int
) -> dict[str, Callable[[Tensor], Tensor]]:
    """The package's steps, `[1, T]` -> `[1, T]`, each with its coin, but for those never applied.

    The arguments are those of `ReferenceChain`; the names are those of `AUGMENTATIONS`.
    """
    register_effect_chain()
    import torchaudio_augmentations as reference

    steps = {
        "polarity": reference.PolarityInversion(),
        "noise": reference.Noise(),
        "gain": reference.Gain(),
        "filters": reference.HighLowPass(sample_rate),
        "delay": reference.Delay(sample_rate),
        "pitch": reference.PitchShift(n_samples, sample_rate),
        "reverb": reference.Reverb(sample_rate),
        "reverse": reference.Reverse(),
    }
    return {
        name: reference.RandomApply([step], p=probabilities[name])
        for name, step in steps.items()
        if probabilities[name] > 0
    }


def _compose(steps: list[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    import torchaudio_augmentations as reference

    return reference.Compose(steps)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generator, each on its own, for a while."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    of_python, of_numpy, of_torch = np.random.SeedSequence(seed).generate_state(3).tolist()
    random.seed(of_python)
    np.random.seed(of_numpy)  # noqa: NPY002
    torch.default_generator.manual_seed(of_torch)  # not the GPUs'
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
