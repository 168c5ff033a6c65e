"""Mel spectrograms of waveforms, one below the other, as a picture."""

import math
import textwrap
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from clmr.drawn import BETWEEN_STEPS
from clmr.encoders.log_mel import FLOOR, N_FFT, mel_power

COLUMNS = 1200  # of a spectrogram, about as many as the picture has pixels
RANGE_DB = 80
TICKS_HZ = (200, 1000, 4000, 16_000)

# Of the picture, in inches.
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 13, 0.95, 1.05, 0.55, 0.6
ROW, LINE, GAP = 0.95, 0.19, 0.16  # height of a spectrogram and of a line of text; space between
LINE_LENGTH = 165  # letters
DPI = 110
INK, GREY = "#202020", "#707070"


class Row(NamedTuple):
    """One spectrogram of the picture, float `[M, columns]` in dB, and what is said above it."""

    number: str
    title: str
    level_db: Tensor


def mel_level(x: Tensor, sample_rate: int) -> Tensor:
    """Level in dB in each mel band, at most `COLUMNS` times over the whole length.

    Args:
        x: Waveform of any length.
        sample_rate: Of the waveform [Hz].

    Shape:
        float `[T]` -> float `[M, columns]`.
    """
    n_fft = N_FFT << max(0, round(math.log2(sample_rate / 22_050)))  # bands need enough bins
    padded = torch.nn.functional.pad(x, (0, max(0, n_fft - len(x))))
    hop = min(max(1, len(padded) // COLUMNS), n_fft // 4)
    power = mel_power(sample_rate, n_fft=n_fft, hop=hop)(padded)[:, : 1 + len(x) // hop]
    if power.shape[1] > COLUMNS:
        power = torch.nn.functional.adaptive_avg_pool1d(power, COLUMNS)
    return 10 * torch.log10(power + FLOOR)


def save_picture(
    path: Path, heading: str, rows: list[Row], n_samples: int, sample_rate: int
) -> None:
    """Draw spectrograms in one scale of colours, as a PNG.

    Args:
        path: Where to.
        heading: Of the picture.
        rows: From top to bottom.
        n_samples: Length of each waveform.
        sample_rate: Of each waveform [Hz].

    Raises:
        OSError: The file cannot be written.
    """
    titles = [title_lines(row.title) for row in rows]
    height = TOP + sum(len(title) * LINE + ROW + GAP for title in titles) + BOTTOM
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    loudest = max(row.level_db.max().item() for row in rows)
    quietest = max(loudest - RANGE_DB, 10 * math.log10(FLOOR))
    limits = {"vmin": quietest, "vmax": max(loudest, quietest + 20)}  # silence is dark

    def text(x: float, y: float, words: str, **style: object) -> None:
        x, y = x / WIDTH, y / height
        figure.text(x, y, words, va="top", parse_math=False, **{"color": INK, **style})

    text(LEFT, height - 0.14, heading, size=12, weight="bold")
    y = height - TOP
    for row, title in zip(rows, titles, strict=True):
        text(LEFT - 0.1, y, row.number, size=9.5, weight="bold", ha="right")
        text(LEFT, y, "\n".join(title), size=9.5, linespacing=1.25)
        y -= len(title) * LINE + ROW
        box = (LEFT / WIDTH, y / height, (WIDTH - LEFT - RIGHT) / WIDTH, ROW / height)
        axes = figure.add_axes(box)
        image = axes.imshow(
            row.level_db.numpy(), origin="lower", aspect="auto", cmap="magma", **limits,
            extent=(0, n_samples / sample_rate, *_ends_mel(len(row.level_db), sample_rate)),
        )  # fmt: skip
        _label(axes, sample_rate, last=row is rows[-1])
        y -= GAP
    bar_height = min(2.5, height - TOP - BOTTOM - LINE)
    bar_bottom = height - TOP - LINE - bar_height
    box = ((WIDTH - RIGHT + 0.2) / WIDTH, bar_bottom / height, 0.15 / WIDTH, bar_height / height)
    bar = figure.colorbar(image, cax=figure.add_axes(box))
    bar.set_label("power in a band [dB]", size=9, color=GREY)
    bar.ax.tick_params(labelsize=8, colors=GREY)
    bar.outline.set_visible(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box is drawn for it
        canvas.print_png(path)


def title_lines(title: str) -> list[str]:
    """Break a title where a step ends, not within one."""
    steps = [step.replace(" ", "\N{NO-BREAK SPACE}") for step in title.split(BETWEEN_STEPS)]
    return textwrap.wrap(BETWEEN_STEPS.join(steps), LINE_LENGTH)


def _label(axes: Axes, sample_rate: int, last: bool) -> None:
    """Seconds below the last row, Hz at the left of each."""
    ticks_hz = [f for f in TICKS_HZ if _mel(f) < _ends_mel(64, sample_rate)[1]]
    axes.set_yticks([_mel(f) for f in ticks_hz], [f"{f:,}" for f in ticks_hz])
    axes.set_ylabel("Hz", size=8.5, color=GREY)
    axes.tick_params(labelsize=8, colors=GREY, labelbottom=last, length=3)
    axes.spines[:].set_visible(False)
    if last:
        axes.set_xlabel("time [s]", size=9.5, color=GREY)


def _mel(frequency_hz: float) -> float:
    """O'Shaughnessy 1987, as the bands are spaced."""
    return 2595 * math.log10(1 + frequency_hz / 700)


def _ends_mel(n_bands: int, sample_rate: int) -> tuple[float, float]:
    """Lower end of the lowest pixel and upper end of the highest; each has its band's middle."""
    step = _mel(sample_rate / 2) / (n_bands + 1)
    return step / 2, (n_bands + 0.5) * step
