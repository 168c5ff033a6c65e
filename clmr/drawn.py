"""What was drawn for a row of a batch, in words: for file names, titles and tables.

Nothing here knows an augmentation: everything follows from names of parameters and their values.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

Parameters = Mapping[str, float]


class Unit(NamedTuple):
    """How a unit is written, in a file name and in words, and whether its values have a sign."""

    short: str
    words: str
    signed: bool = False


UNITS = {  # by the last word of a parameter's name
    "hz": Unit("hz", "Hz"),
    "ms": Unit("ms", "ms"),
    "s": Unit("s", "s"),
    "db": Unit("db", "dB", signed=True),
    "cents": Unit("c", "cents", signed=True),
    "semitones": Unit("st", "semitones", signed=True),
}
NO_UNIT = Unit("", "")
BETWEEN_STEPS = " · "


def in_short(drawn: Mapping[str, Parameters]) -> str:
    """As part of a file name: `polarity-filters-highpass-812hz-pitch+312c`, or `unchanged`."""
    if not drawn:
        return "unchanged"
    parts = []
    for step, parameters in drawn.items():
        parts.append(f"-{_letters(step)}")
        for name, value in _shown(parameters):
            unit = _unit(name)
            if not isinstance(value, bool):
                minus = "" if unit.signed else "-"  # a sign parts it from what is before by itself
                parts.append(f"{minus}{_number(value, unit)}{unit.short}")
            else:
                parts.append(f"-{_letters(name)}")
    return "".join(parts).removeprefix("-")


def in_words(drawn: Mapping[str, Parameters]) -> str:
    """As a title: `polarity · filters: high pass, cutoff 812 Hz · pitch: +312 cents`."""
    steps = [
        f"{step}: {words}" if (words := _parameters_in_words(step, parameters)) else step
        for step, parameters in drawn.items()
    ]
    return BETWEEN_STEPS.join(steps) or "unchanged"


def as_table(drawn: Mapping[str, Parameters]) -> str:
    """As a table in Markdown, a row a step."""
    rows = [f"| {step} | {_parameters_in_words(step, drawn[step])} |" for step in drawn]
    return "\n".join(["| step | parameters |", "|---|---|", *rows])


def _parameters_in_words(step: str, parameters: Parameters) -> str:
    words = []
    for name, value in _shown(parameters):
        unit = _unit(name)
        label = name.split("_")[: -1 if unit.words else None]
        if isinstance(value, bool):
            words.append(" ".join(label))
        else:
            label = [] if label == step.split("_") else label  # gain: -3.1 dB
            words.append(" ".join([*label, _number(value, unit), unit.words]).rstrip())
    return ", ".join(words)


def _shown(parameters: Parameters) -> Iterator[tuple[str, float]]:
    """All but switches that are off, and seeds, which say nothing to anybody."""
    shown = {k: v for k, v in parameters.items() if k.split("_")[-1] != "seed"}
    return ((k, v) for k, v in shown.items() if v is not False)


def _unit(name: str) -> Unit:
    return UNITS.get(name.split("_")[-1], NO_UNIT)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _number(value: float, unit: Unit) -> str:
    """Whole, or with three digits that count: 0.00423, 12.5, 812, 3568."""
    fraction = isinstance(value, float) and value != 0
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if fraction else 0
    written = f"{value:{'+' if unit.signed else ''}.{decimals}f}"
    return written.rstrip("0").rstrip(".") if decimals else written
