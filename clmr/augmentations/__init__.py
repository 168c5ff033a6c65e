"""Augmentations: float `[N, 1, T]` -> float `[N, 1, T]`, batched, on the input's device.

To add one, subclass `Augmentation` in a file of its own, list it here at its place in the chain,
and give its probability the key `transforms_<name>` in the settings.
"""

from clmr.augmentations.base import Augmentation, Draw
from clmr.augmentations.chain import Chain, build_chain
from clmr.augmentations.delay import Delay
from clmr.augmentations.gain import Gain
from clmr.augmentations.noise import Noise
from clmr.augmentations.polarity_inversion import PolarityInversion

AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "polarity": PolarityInversion,
    "noise": Noise,
    "gain": Gain,
    "delay": Delay,
}

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "Chain",
    "Delay",
    "Draw",
    "Gain",
    "Noise",
    "PolarityInversion",
    "build_chain",
]
