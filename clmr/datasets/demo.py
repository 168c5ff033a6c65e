"""A small labelled dataset that the package plays itself, so that nothing has to be downloaded."""

import os
import wave
from functools import partial
from pathlib import Path

import numpy as np
from numpy.random import Generator
from tqdm import tqdm

from clmr.datasets.base import AudioDataset, Clip
from clmr.datasets.demo_synthesis import INSTRUMENTS, SAMPLE_RATE, Score, render
from clmr.errors import DatasetError
from clmr.processes import map_unordered

SEED = 2021
N_CLIPS = 400
DURATION_S = 6.0                                             # holds two windows of 59,049 samples
SPLITS = 12 * ("train",) + 3 * ("valid",) + 5 * ("test",)    # dealt in turn: 60, 15 and 25 %

# The middle ones are no tags: a clip may be neither slow nor fast, as music may.
TEMPI_BPM = {"slow": (50, 70), "moderate": (95, 110), "fast": (140, 180)}
LEVELS_DB = {"quiet": (-40, -34), "medium": (-29, -25), "loud": (-20, -14)}
VELOCITIES = {"quiet": 0.15, "medium": 0.5, "loud": 0.85}
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9))    # above the tonic


def draw_clip(number: int) -> tuple[set[str], Score, Generator]:
    """Draw what a clip plays: a function of its number alone.

    Args:
        number: Number of the clip, from 0.

    Returns:
        The clip's tags, its score, and the generator to render it with.
    """
    rng = np.random.default_rng((SEED, number))
    n_instruments = int(rng.choice([1, 2, 3], p=[0.4, 0.35, 0.25]))
    instruments = rng.choice(list(INSTRUMENTS), n_instruments, replace=False).tolist()
    tempo = str(rng.choice(list(TEMPI_BPM), p=[0.4, 0.2, 0.4]))
    loudness = str(rng.choice(list(LEVELS_DB), p=[0.35, 0.3, 0.35]))
    tonic = int(rng.integers(12))
    score = Score(
        instruments=tuple(instruments),
        tempo_bpm=rng.uniform(*TEMPI_BPM[tempo]),
        scale=tuple((tonic + degree) % 12 for degree in SCALES[rng.integers(len(SCALES))]),
        tuning=rng.uniform(-0.3, 0.3),
        velocity=VELOCITIES[loudness],
        level_db=rng.uniform(*LEVELS_DB[loudness]),
    )
    tags = {*instruments, tempo, loudness}
    if n_instruments == 1:
        tags.add("solo")
    if n_instruments == 3:
        tags.add("ensemble")
    if tags & {"violin", "cello"}:
        tags.add("strings")
    return tags, score, rng


def render_clip(number: int) -> np.ndarray:
    """Play one clip; the same samples on every call.

    Shape:
        output: int16 `[DURATION_S * SAMPLE_RATE]`, mono.
    """
    _, score, rng = draw_clip(number)
    return np.round(32_767 * render(score, DURATION_S, rng)).astype("<i2")


def write_clip(number: int, path: Path) -> None:
    """Render one clip to a wav file, which has its final name only once it is whole."""
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")     # two runs may render the same clip
    try:
        with wave.open(str(unfinished), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", "not compressed"))
            file.writeframes(render_clip(number).tobytes())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_numbered(paths: list[Path], number: int) -> None:
    write_clip(number, paths[number])


class Demo(AudioDataset):
    """400 clips of 6 s with 18 tags in the manner of MagnaTagATune: instruments, tempo, loudness.

    Files are 16-bit mono at 22,050 Hz in `<dataset_dir>/demo`. Clips, splits and labels are known
    before a file is there.

    Args:
        dataset_dir: Folder that holds the datasets (`--dataset_dir`).
    """

    tags = (*INSTRUMENTS, "strings", "slow", "fast", "quiet", "loud", "solo", "ensemble")

    def prepare(self) -> None:
        """Render the files that are missing, on all cores.

        Raises:
            DatasetError: The folder cannot be written.
        """
        folder = self.dataset_dir / "demo"
        paths = [clip.path for clip in self.clips()]
        try:
            missing = [number for number, path in enumerate(paths) if not path.exists()]
            if not missing:
                return
            folder.mkdir(parents=True, exist_ok=True)
            rendered = map_unordered(partial(_write_numbered, paths), missing, os.cpu_count() or 1)
            for _ in tqdm(rendered, "rendering the demo", len(missing), unit=" clips"):
                pass
        except OSError as error:
            raise DatasetError(
                f"cannot write the demo dataset to {folder}: {error.strerror or error}. It needs "
                "about 110 MB in a folder that can be written; name another one by --dataset_dir"
            ) from error

    def clips(self) -> list[Clip]:
        clips = []
        for number in range(N_CLIPS):
            tags, _, _ = draw_clip(number)
            clips.append(Clip(
                id=f"demo{number:03d}",
                path=self.dataset_dir / "demo" / f"demo{number:03d}.wav",
                split=SPLITS[number % len(SPLITS)],
                labels=np.array([tag in tags for tag in self.tags], dtype=np.uint8),
            ))
        return clips
