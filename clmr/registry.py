"""The lookup in a dict of alternatives that explains itself when it fails."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from clmr.errors import ConfigError

T = TypeVar("T")


def lookup(kind: str, registry: Mapping[str, T], name: str) -> T:
    """Return `registry[name]`.

    Args:
        kind: What the registry holds, in one word, which is also its flag: `encoder`, `dataset`.

    Raises:
        ConfigError: There is no such name; the message lists those that there are.
    """
    if name in registry:
        return registry[name]
    raise ConfigError(
        f"unknown {kind} '{name}'{did_you_mean(name, registry)}; known: {', '.join(registry)}"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Name the nearest of `known` in half a sentence, or nothing if none is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{nearest[0]}'?)" if nearest else ""
