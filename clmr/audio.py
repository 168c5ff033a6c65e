"""Audio files to 16-bit mono PCM: decode anything, mix to mono, resample, round; and back."""

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from clmr.errors import AudioError

FULL_SCALE = 2**15  # one fixed scale both ways, so that int16 -> float32 -> int16 is exact
# What a container may promise and not hold before we call it truncated: encoder padding is
# 1,105 to 2,257 samples in mp3 and 2,112 in aac.
MAX_MISSING_S = 0.25


class Decoded(NamedTuple):
    """A decoded file: int16 `pcm` `[n_samples]`, and how many of them were beyond full scale."""

    pcm: Tensor
    n_clamped: int


def load_audio(path: str | Path, sample_rate: int) -> Tensor:
    """Decode a file of any format, rate and channel count to mono PCM.

    Args:
        path: wav, flac, mp3, ogg, opus, aiff (by libsndfile); m4a, aac and others (by FFmpeg).
        sample_rate: Samples a second of the result [Hz].

    Shape:
        int16 `[n_samples]`.

    Raises:
        AudioError: The file is missing, unreadable, damaged, or holds NaN; with the reason.
    """
    return decode(path, sample_rate).pcm


def decode(path: str | Path, sample_rate: int) -> Decoded:
    """`load_audio`, which also counts the samples that were clamped to full scale."""
    path = Path(path)
    _check_readable(path)
    x, source_rate = _read_mono(path)
    if not np.isfinite(x).all():
        first = int(np.argmin(np.isfinite(x)))
        raise AudioError(
            f"{path}: sample {first} ({first / source_rate:.2f} s) is not a finite number; "
            "export the file again or remove it"
        )
    if source_rate != sample_rate:
        x = soxr.resample(x, source_rate, sample_rate, quality="HQ")
    n_clamped = int(np.count_nonzero(np.abs(x) > 1))
    return Decoded(float_to_pcm(torch.from_numpy(x)), n_clamped)


def save_audio(path: Path, pcm: Tensor, sample_rate: int) -> None:
    """Write mono PCM as a wav file of 16 bits.

    Args:
        path: Where to.
        pcm: Samples.
        sample_rate: Of the samples [Hz].

    Shape:
        pcm: int16 `[n_samples]`.

    Raises:
        OSError: The file cannot be written.
    """
    wav = io.BytesIO()  # written by ourselves: libsndfile gives no reason when the disk is full
    soundfile.write(wav, pcm.numpy(), sample_rate, subtype="PCM_16", format="WAV")
    path.write_bytes(wav.getvalue())  # not `getbuffer`, which crashed Python 3.12.1 if this failed


def pcm_to_float(pcm: Tensor) -> Tensor:
    """int16 to float32 in [-1, 1), exactly."""
    return pcm.to(torch.float32) / FULL_SCALE


def float_to_pcm(x: Tensor) -> Tensor:
    """float32 to int16: round, and clamp what is beyond full scale."""
    return (x * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16)


def _check_readable(path: Path) -> None:
    if path.is_fifo():
        raise AudioError(f"{path}: a pipe, not a file, that would be waited for; remove it")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise AudioError(
            f"{path}: cannot be read: {error.strerror or error}; "
            "put an audio file there that you may read"
        ) from error
    if empty:
        raise AudioError(f"{path}: the file is empty (0 bytes); get it again or remove it")


def _read_mono(path: Path) -> tuple[np.ndarray, int]:
    """Decode and mix to mono: libsndfile first, FFmpeg's libraries for what it cannot open."""
    with suppress(soundfile.LibsndfileError):
        return _read_with_soundfile(path)
    try:
        return _read_with_av(path)
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(
            f"{path}: not audio, or damaged ({reason}); get the file again or remove it"
        ) from error


def _read_with_soundfile(path: Path) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(os.fsencode(path)) as file:  # a name may hold any bytes
        n_promised, rate = file.frames, file.samplerate
        blocks = [block.mean(axis=1) for block in _blocks(file)]
    x = np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)
    _check_whole(path, len(x) / rate, n_promised / rate)
    return x, rate


def _blocks(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """Read until nothing comes: the length in a header may be wrong either way."""
    while len(block := file.read(2**20, dtype="float32", always_2d=True)):
        yield block  # [n_samples, channels]


def _read_with_av(path: Path) -> tuple[np.ndarray, int]:
    with av.open(str(path)) as container:
        stream = next(iter(container.streams.audio), None)
        codec = stream and stream.codec_context  # None if it is a codec that FFmpeg does not know
        if not codec or not codec.sample_rate:
            raise ValueError("there is no audio in it")
        rate = codec.sample_rate
        promised_s = float(stream.duration * stream.time_base) if stream.duration else 0.0
        to_float = av.AudioResampler(format="fltp", rate=rate)
        frames = [f for frame in container.decode(stream) for f in to_float.resample(frame)]
    x = np.concatenate([frame.to_ndarray().mean(axis=0) for frame in frames] or [np.zeros(0)])
    _check_whole(path, len(x) / rate, promised_s)
    return x.astype(np.float32), rate


def _check_whole(path: Path, found_s: float, promised_s: float) -> None:
    if found_s == 0:
        raise AudioError(f"{path}: there is no audio in it; get the file again or remove it")
    if found_s < promised_s - MAX_MISSING_S:
        raise AudioError(
            f"{path}: truncated or damaged: {found_s:.1f} of {promised_s:.1f} s could be decoded; "
            "get the file again"
        )
