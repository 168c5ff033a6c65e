"""Stands in for the package `augment` (wavaugment) where that finds no SoX to call."""

import importlib
import logging
import sys
from collections.abc import Callable, Mapping
from types import ModuleType

import torch
from torch import Tensor

from clmr.augmentations.freeverb import Circle, Room, from_circle, to_circle, wet_responses
from clmr.augmentations.pitch_shift import MOST_SEMITONES, shift_pitch

log = logging.getLogger(__name__)

Effect = Callable[[Tensor, int], Tensor]  # [channels, T] and a sample rate [Hz] -> [channels, T]


class EffectChain:
    """Effects one after the other, as `augment.EffectChain` has SoX apply them.

    It has what torchaudio-augmentations asks for, computed by our kernels: pitch and reverb of one
    channel, and the mix to mono. SoX keeps samples as integers, so that it clips to [-1, 1]
    whatever goes into an effect or comes out of it; so does this.

    Each effect returns the chain itself: `EffectChain().pitch(100).rate(22_050).apply(...)`.
    """

    def __init__(self) -> None:
        self._effects: list[Effect] = []

    def pitch(self, cents: int) -> "EffectChain":
        """Shift the pitch at the same duration [cents]."""
        _check("pitch", cents, -100 * MOST_SEMITONES, 100 * MOST_SEMITONES)

        def effect(x: Tensor, rate_hz: int) -> Tensor:
            _check_mono("pitch", x)
            return shift_pitch(x, torch.tensor([cents]), rate_hz, most_cents=cents)

        return self._then(effect)

    def reverb(self, reverberance: int, damping: int, room_scale: int) -> "EffectChain":
        """Reverberate; all three in percent. One channel becomes two, one for each ear."""
        percentages = {
            "reverberance": reverberance, "damping": damping, "room_scale": room_scale,
        }  # fmt: skip
        for name, value in percentages.items():
            _check(f"reverb's {name}", value, 0, 100)

        def effect(x: Tensor, rate_hz: int) -> Tensor:
            _check_mono("reverb", x)
            room = Room.of(**{k: torch.tensor([v]) for k, v in percentages.items()},
                           sample_rate=rate_hz)  # fmt: skip
            circle = Circle.for_length(x.shape[1], exact=True)
            spectra = to_circle(circle, x)
            ears = [spectra * (1 + wet) for wet in wet_responses(room, circle, rate_hz, x.dtype)]
            return torch.cat([from_circle(circle, ear, x.shape[1]) for ear in ears])

        return self._then(effect)

    def rate(self, hz: int) -> "EffectChain":
        """Bring the sample rate back, after `pitch`, to what it was: no other can be asked for."""

        def effect(x: Tensor, rate_hz: int) -> Tensor:
            _check_rate("rate", hz, rate_hz)
            return x

        return self._then(effect)

    def channels(self, n: int) -> "EffectChain":
        """Mix to one channel, the mean of all, or leave as many as there are."""

        def effect(x: Tensor, rate_hz: int) -> Tensor:
            if n not in (1, len(x)):
                raise ValueError(f"channels: got {n}, of {len(x)}; allowed: 1 or {len(x)}")
            return x if n == len(x) else x.mean(dim=0, keepdim=True)

        return self._then(effect)

    def apply(
        self, x: Tensor, src_info: Mapping[str, int], target_info: Mapping[str, int] | None = None
    ) -> Tensor:
        """Apply the effects, leaving `x` as it is.

        Args:
            x: Waveform.
            src_info: Its `rate` [Hz].
            target_info: What is wanted; a `rate` must be the same. As in the original, `length`
                and `channels` change nothing.

        Shape:
            float `[T]` or `[1, T]` -> float `[channels, T]`.

        Raises:
            ValueError: An effect is asked for what it cannot do.
        """
        rate_hz = src_info["rate"]
        _check_rate("target_info", (target_info or {}).get("rate", rate_hz), rate_hz)
        y = torch.atleast_2d(x).clamp(-1, 1)
        for effect in self._effects:
            y = effect(y, rate_hz).clamp(-1, 1)
        return y

    def __getattr__(self, name: str) -> None:
        raise AttributeError(
            f"EffectChain has no effect '{name}', only pitch, rate, reverb and channels: all "
            "others need SoX itself, which torchaudio has up to version 2.8"
        )

    def _then(self, effect: Effect) -> "EffectChain":
        self._effects.append(effect)
        return self


def register_effect_chain() -> None:
    """Let `import augment` give a module with our `EffectChain`, only if it fails otherwise.

    It does with an ImportError from torchaudio 2.9 on, which has no SoX, and before that with an
    OSError where the library libsox is not installed, or a RuntimeError where torchaudio was built
    without it.
    """
    try:
        importlib.import_module("augment")
    except (ImportError, OSError, RuntimeError) as error:
        log.info("no SoX (%s): pitch and reverb are computed as it would", error)
        module = ModuleType("augment", __doc__)
        module.EffectChain = EffectChain
        sys.modules["augment"] = module


def _check(name: str, value: float, least: int, most: int) -> None:
    if not (isinstance(value, int) and least <= value <= most):
        raise ValueError(f"{name}: got {value}, allowed: whole numbers from {least} to {most}")


def _check_mono(name: str, x: Tensor) -> None:
    if len(x) != 1:
        raise ValueError(f"{name}: got {len(x)} channels, allowed: 1")


def _check_rate(name: str, hz: int, rate_hz: int) -> None:
    if hz != rate_hz:
        raise ValueError(f"{name}: got {hz} Hz for audio at {rate_hz} Hz, allowed: the same rate")
