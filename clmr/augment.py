"""Augmented copies of a file: to hear and to see what the settings do."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from clmr.arguments import Arguments
from clmr.audio import float_to_pcm, load_audio, pcm_to_float, save_audio
from clmr.augmentations import AUGMENTATIONS, Draw, drawn_for
from clmr.config import Config
from clmr.drawn import in_short, in_words
from clmr.errors import AudioError, ConfigError
from clmr.modules.contrastive_learning import chain_of
from clmr.spectrograms import Row, mel_level, save_picture
from clmr.store import writing

PICTURE = "augmented.png"
MOST_ROWS = 33  # of the picture: more could not be looked at
MOST_STEM_BYTES, MOST_DRAWN_LETTERS = 80, 150  # file systems end at 255, of which `.part` takes 5


def arguments() -> Arguments:
    """What the command takes besides settings."""
    own = Arguments(
        usage="python -m clmr augment FILE --out DIR [--n N]",
        description="Write augmented copies of a file, named by what was drawn for each, and a "
        "picture of their mel spectrograms: to hear and see what the settings do.",
        settings=["seed", "sample_rate", *(f"transforms_{name}" for name in AUGMENTATIONS)],
    )
    own.add_argument("file", type=Path, metavar="FILE", help="audio of any format and length")
    own.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the copies")
    own.add_argument("--n", dest="n_copies", type=int, default=8, metavar="N",
                     help="how many copies (default: 8)")  # fmt: skip
    return own


@dataclass(frozen=True)
class Augmented:
    """What `augment` wrote, for the person who asked for it; the first file is the original."""

    files: tuple[Path, ...]
    picture: Path
    n_pictured: int
    n_samples: int
    sample_rate: int
    n_clamped: int

    def __str__(self) -> str:
        original, *copies = self.files
        seconds = self.n_samples / self.sample_rate
        lines = [
            f"original  {original} ({seconds:,.2f} s at {self.sample_rate:,} Hz)",
            f"copies    {len(copies)} in {original.parent}",
            *(f"          {copy.name}" for copy in copies),
        ]
        if self.n_clamped:
            n_all = self.n_samples * len(copies)
            lines.append(f"clamped   {self.n_clamped:,} of {n_all:,} samples beyond full scale")
        first = f" (the first {self.n_pictured})" if self.n_pictured < len(copies) else ""
        lines.append(f"picture   {self.picture}{first}")
        return "\n".join(lines)


def augment(config: Config, file: Path, out: Path, n_copies: int) -> Augmented:
    """Write augmented copies of a file, each with its own draws, and a picture of them all.

    Args:
        config: Settings; the draws follow from `seed`.
        file: What to augment, whole.
        out: Folder of the copies.
        n_copies: How many.

    Raises:
        ClmrError: The file cannot be decoded or is too short, the folder cannot be written to or
            holds other copies of the file, or the settings do not do.
        KeyboardInterrupt: Ctrl-C; the message says how much was written.
    """
    _check(config, n_copies)
    chain = chain_of(config, torch.Generator().manual_seed(config.seed))
    pcm = load_audio(file, config.sample_rate)
    draws = chain.draw(n_copies)
    drawn = [drawn_for(draws, row) for row in range(n_copies)]
    files = [out / name for name in _names(file, [in_short(d) for d in drawn])]
    heading, rows, n_clamped = f"{_stem(file)} at {config.sample_rate:,} Hz", [], 0
    with _explained(out), _counted(files):
        out.mkdir(parents=True, exist_ok=True)
        _check_no_others(out, _stem(file), files)
        for number, path in enumerate(tqdm(files, desc="augmenting", unit=" files")):
            x = pcm_to_float(pcm)[None, None]  # [1, 1, T]
            if number:
                x = chain.apply(x, _only(draws, number - 1))
                _check_finite(file, x, drawn[number - 1])
                n_clamped += int((x.abs() > 1).sum())
            with writing(path) as aside:
                save_audio(aside, float_to_pcm(x[0, 0]), config.sample_rate)
            if number < MOST_ROWS:
                title = in_words(drawn[number - 1]) if number else "original"
                rows.append(Row(f"{number:02d}", title, mel_level(x[0, 0], config.sample_rate)))
        with writing(out / PICTURE) as aside:
            save_picture(aside, heading, rows, len(pcm), config.sample_rate)
    return Augmented(
        files=tuple(files),
        picture=out / PICTURE,
        n_pictured=len(rows) - 1,
        n_samples=len(pcm),
        sample_rate=config.sample_rate,
        n_clamped=n_clamped,
    )


def _check(config: Config, n_copies: int) -> None:
    if n_copies < 1:
        raise ConfigError(f"--n: got {n_copies}, allowed: at least 1")
    if config.augmentations != "clmr":
        raise ConfigError(
            f"--augmentations {config.augmentations} does not tell what it draws: this command "
            "shows the chain of clmr; give --augmentations clmr"
        )


def _only(draws: Mapping[str, Draw], row: int) -> dict[str, Draw]:
    """What was drawn for one row of a batch, as draws of a batch of that row alone."""
    own = {}
    for name, (rows, parameters) in draws.items():
        chosen = rows == row
        values = {key: value[chosen] for key, value in parameters.items()}
        own[name] = Draw(torch.zeros_like(rows[chosen]), values)
    return own


def _check_finite(file: Path, x: Tensor, drawn: Mapping[str, Mapping[str, float]]) -> None:
    if not x.isfinite().all():
        raise AudioError(
            f"{file}: {x.shape[-1]} samples are too few for one of: {', '.join(drawn)}; give a "
            "longer file, or a probability of 0"
        )


def _names(file: Path, in_short: list[str]) -> list[str]:
    """Names of the original and of the copies, which sort as they are numbered."""
    stem, digits = _stem(file), max(2, len(str(len(in_short))))
    return [
        f"{stem}-{number:0{digits}d}-{said[:MOST_DRAWN_LETTERS]}.wav"
        for number, said in enumerate(["original", *in_short])
    ]


def _stem(file: Path) -> str:
    """The file's name in characters that every file system takes, cut to what it takes."""
    stem = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]', "_", file.stem)
    return stem.encode()[:MOST_STEM_BYTES].decode(errors="ignore")


def _check_no_others(out: Path, stem: str, files: list[Path]) -> None:
    """Refuse to mix two sets of copies of one file; the same ones may be written again."""
    like_ours = re.compile(re.escape(stem) + r"-\d{2,}-.*\.wav")
    found = {path for path in out.iterdir() if like_ours.fullmatch(path.name)}
    if others := sorted(found - set(files)):
        raise ConfigError(
            f"--out {out} holds {len(others)} copies with other draws, as {others[0].name}: "
            "remove them or give another folder"
        )


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    """Say what to do when the folder is none, is closed, or the disk is full."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"--out {out} cannot be written to ({error.strerror or error}): "
            "make room there, or give another folder"
        ) from error


@contextmanager
def _counted(files: list[Path]) -> Iterator[None]:
    """Say after Ctrl-C how many files there are; each is whole."""
    try:
        yield
    except KeyboardInterrupt as error:
        n_written = sum(path.is_file() for path in files)
        raise KeyboardInterrupt(
            f"{n_written} of {len(files)} files were written to {files[0].parent}"
        ) from error
