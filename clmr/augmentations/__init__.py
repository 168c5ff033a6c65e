"""Augmentations: float `[N, 1, T]` -> float `[N, 1, T]`, batched, on the input's device.

To add one, subclass `Augmentation` in a file of its own, list it here at its place in the chain,
and give its probability the key `transforms_<name>` in the settings.
"""

from clmr.augmentations.base import Augmentation, Draw
from clmr.augmentations.chain import Chain, build_chain, drawn_for
from clmr.augmentations.delay import Delay
from clmr.augmentations.gain import Gain
from clmr.augmentations.high_low_pass import HighLowPass
from clmr.augmentations.noise import Noise
from clmr.augmentations.pitch_shift import PitchShift
from clmr.augmentations.polarity_inversion import PolarityInversion
from clmr.augmentations.reverb import Reverb
from clmr.augmentations.reverse import Reverse

AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "polarity": PolarityInversion,
    "noise": Noise,
    "gain": Gain,
    "filters": HighLowPass,
    "delay": Delay,
    "pitch": PitchShift,
    "reverb": Reverb,
    "reverse": Reverse,
}

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "Chain",
    "Delay",
    "Draw",
    "Gain",
    "HighLowPass",
    "Noise",
    "PitchShift",
    "PolarityInversion",
    "Reverb",
    "Reverse",
    "build_chain",
    "drawn_for",
]
