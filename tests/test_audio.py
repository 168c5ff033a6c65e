"""Expected values are those of the tone itself, sampled at the rate that was asked for."""

import os
import re
import wave
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from clmr.audio import decode, float_to_pcm, load_audio, pcm_to_float, save_audio
from clmr.errors import AudioError

RATE = 22050
EDGE = 2205  # samples at either end where a filter rings or an encoder fades in


def tone(
    frequency_hz: float, sample_rate: int, seconds: float = 2, amplitude: float = 0.5
) -> np.ndarray:
    time_s = np.arange(round(seconds * sample_rate)) / sample_rate
    return amplitude * np.sin(2 * np.pi * frequency_hz * time_s)


def write_with_av(path: Path, x: np.ndarray, sample_rate: int, codec: str, container: str) -> None:
    """Encode `x`, float `[n_samples]` or `[n_samples, 2]`, with FFmpeg's libraries."""
    planes = np.atleast_2d(x.T).astype(np.float32)
    layout = "stereo" if len(planes) == 2 else "mono"
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes), "fltp", layout)
    frame.rate = sample_rate
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=sample_rate, layout=layout)
        resampler = av.AudioResampler(stream.format, layout, sample_rate, frame_size=1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))


def by_soundfile(subtype: str | None = None, container: str | None = None) -> Callable:
    def write(path: Path, x: np.ndarray, sample_rate: int) -> None:
        soundfile.write(path, x, sample_rate, subtype=subtype, format=container)

    return write


def by_av(codec: str, container: str) -> Callable:
    def write(path: Path, x: np.ndarray, sample_rate: int) -> None:
        write_with_av(path, x, sample_rate, codec, container)

    return write


LOSSLESS = {
    "int16.wav": by_soundfile("PCM_16"),
    "int24.wav": by_soundfile("PCM_24"),
    "int32.wav": by_soundfile("PCM_32"),
    "float32.wav": by_soundfile("FLOAT"),
    "float64.wav": by_soundfile("DOUBLE"),
    "int24.flac": by_soundfile("PCM_24"),
    "int16.aiff": by_soundfile("PCM_16"),
    "int16.aif": by_soundfile("PCM_16", "AIFF"),
    "alac.m4a": by_av("alac", "mp4"),
}
LOSSY = {
    "uint8.wav": by_soundfile("PCM_U8"),
    "mp3.mp3": by_soundfile(),
    "vorbis.ogg": by_soundfile("VORBIS"),
    "vorbis.oga": by_soundfile("VORBIS", "OGG"),
    "opus.opus": by_soundfile("OPUS", "OGG"),
    "aac.m4a": by_av("aac", "mp4"),
    "aac.mp4": by_av("aac", "mp4"),
    "aac.aac": by_av("aac", "adts"),
    "opus.webm": by_av("libopus", "webm"),
    "vorbis.mka": by_av("libvorbis", "matroska"),
}
FORMATS = LOSSLESS | LOSSY


def pitch_hz(x: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x)), 2**20))
    return spectrum.argmax() * RATE / 2**20


def level(x: np.ndarray) -> float:
    """Amplitude of a tone."""
    return float(np.sqrt(2 * np.mean(x**2)))


def load_float(path: Path, sample_rate: int = RATE) -> np.ndarray:
    return load_audio(path, sample_rate).numpy() / 2**15


# What can be read


@pytest.mark.parametrize("name", FORMATS)
def test_a_tone_in_any_format_keeps_its_pitch_level_and_length(tmp_path: Path, name: str):
    FORMATS[name](tmp_path / name, tone(440, 48000), 48000)
    x = load_float(tmp_path / name)
    assert len(x) / RATE == pytest.approx(2, abs=0.1 if name in LOSSY else 1 / RATE)
    assert pitch_hz(x[EDGE:-EDGE]) == pytest.approx(440, abs=0.1)
    assert level(x[EDGE:-EDGE]) == pytest.approx(0.5, rel=0.02)  # 0.17 dB


@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000])
def test_every_rate_and_channel_count_gives_the_samples_of_the_same_tone(
    tmp_path: Path, rate: int, channels: int
):
    x = np.tile(tone(440, rate)[:, None], channels)
    soundfile.write(tmp_path / "x.wav", x, rate, subtype="PCM_24")
    loaded = load_float(tmp_path / "x.wav")
    expected = tone(440, RATE)
    assert len(loaded) == len(expected)
    error = np.abs(loaded - expected)[EDGE:-EDGE].max()
    assert error < 2 / 2**15


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_the_samples_of_the_tone(tmp_path: Path, name: str):
    LOSSLESS[name](tmp_path / name, tone(440, RATE), RATE)
    np.testing.assert_allclose(load_float(tmp_path / name), tone(440, RATE), atol=1.5 / 2**15)


@pytest.mark.parametrize("name", FORMATS)
def test_the_extension_may_be_in_upper_case(tmp_path: Path, name: str):
    lower, upper = tmp_path / name, tmp_path / f"A {name.upper()}"
    FORMATS[name](lower, tone(440, 48000), 48000)
    lower.rename(upper)
    assert level(load_float(upper)[EDGE:-EDGE]) == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("suffix", [".wav", ".m4a"])
@pytest.mark.parametrize("name", ["Ünï 音".encode(), b"not utf-8 \xff\xfe"])
def test_a_file_name_may_hold_any_bytes(tmp_path: Path, name: bytes, suffix: str):
    writer = {".wav": LOSSLESS["int16.wav"], ".m4a": LOSSLESS["alac.m4a"]}[suffix]
    writer(tmp_path / f"plain{suffix}", tone(440, RATE), RATE)
    path = tmp_path / os.fsdecode(name + suffix.encode())
    (tmp_path / f"plain{suffix}").rename(path)
    np.testing.assert_allclose(load_float(path), tone(440, RATE), atol=1.5 / 2**15)


def test_a_path_may_be_a_string(tmp_path: Path, write_wav: Callable):
    path = write_wav(tmp_path / "x.wav", seconds=1)
    assert torch.equal(load_audio(str(path), RATE), load_audio(path, RATE))


# What becomes of the samples


def test_mono_is_the_mean_of_the_channels(tmp_path: Path):
    left, middle, right = np.random.default_rng(0).integers(-10_000, 10_000, (3, 9000)) * 3
    pcm = np.stack([left, middle, right], axis=1).astype(np.int16)
    soundfile.write(tmp_path / "x.wav", pcm, RATE)
    np.testing.assert_array_equal(load_audio(tmp_path / "x.wav", RATE), pcm.mean(axis=1))


def test_mono_is_the_mean_of_the_channels_in_m4a_too(tmp_path: Path):
    x = np.stack([tone(440, RATE), tone(440, RATE, amplitude=0.1)], axis=1)
    write_with_av(tmp_path / "x.m4a", x, RATE, "alac", "mp4")
    assert level(load_float(tmp_path / "x.m4a")) == pytest.approx((0.5 + 0.1) / 2, rel=1e-3)


def test_channels_in_opposite_phase_cancel(tmp_path: Path):
    x = np.stack([tone(440, 44100), -tone(440, 44100)], axis=1)
    soundfile.write(tmp_path / "x.wav", x, 44100, subtype="FLOAT")
    assert not load_audio(tmp_path / "x.wav", RATE).any()


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff"])
def test_int16_at_the_wanted_rate_passes_bit_by_bit(tmp_path: Path, suffix: str):
    pcm = np.random.default_rng(0).permutation(np.arange(-(2**15), 2**15)).astype(np.int16)
    soundfile.write(tmp_path / f"x{suffix}", pcm, RATE, subtype="PCM_16")
    decoded = decode(tmp_path / f"x{suffix}", RATE)
    assert decoded.pcm.dtype == torch.int16
    np.testing.assert_array_equal(decoded.pcm, pcm)
    assert decoded.n_clamped == 0


def test_a_file_longer_than_one_block_of_reading_is_whole(tmp_path: Path):
    pcm = np.random.default_rng(0).integers(-(2**15), 2**15, 2**20 + 2**19 + 7).astype(np.int16)
    soundfile.write(tmp_path / "x.wav", pcm, RATE)
    np.testing.assert_array_equal(load_audio(tmp_path / "x.wav", RATE), pcm)


def test_what_the_lower_rate_cannot_hold_is_filtered_out(tmp_path: Path):
    soundfile.write(tmp_path / "x.wav", tone(15_000, 44100), 44100, subtype="FLOAT")
    alias = level(load_float(tmp_path / "x.wav")[EDGE:-EDGE])
    assert alias < 0.5 * 10 ** (-80 / 20)


def test_a_high_tone_that_the_lower_rate_can_hold_keeps_its_level(tmp_path: Path):
    soundfile.write(tmp_path / "x.wav", tone(9_900, 44100), 44100, subtype="FLOAT")
    kept = load_float(tmp_path / "x.wav")[EDGE:-EDGE]
    assert level(kept) == pytest.approx(0.5, rel=0.01)
    assert pitch_hz(kept) == pytest.approx(9_900, abs=0.1)


def test_a_higher_rate_has_no_mirror_images(tmp_path: Path):
    soundfile.write(tmp_path / "x.wav", tone(3_000, 8000), 8000, subtype="FLOAT")
    x = load_float(tmp_path / "x.wav")[EDGE:-EDGE]
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x))))
    frequencies_hz = np.fft.rfftfreq(len(x), 1 / RATE)
    images = spectrum[frequencies_hz > 4_500]  # the first would be at 8,000 - 3,000
    assert images.max() < spectrum.max() * 10 ** (-80 / 20)


@pytest.mark.parametrize("rate", [8000, 44100, 96000])
def test_a_click_stays_at_its_time(tmp_path: Path, rate: int):
    x = np.zeros(2 * rate)
    x[rate] = 0.9
    soundfile.write(tmp_path / "x.wav", x, rate, subtype="FLOAT")
    assert int(load_audio(tmp_path / "x.wav", RATE).argmax()) == RATE


# Numbers


def test_every_pcm_value_is_its_32768th_in_float_and_comes_back():
    values = np.arange(-(2**15), 2**15)
    pcm = torch.from_numpy(values.astype(np.int16))
    x = pcm_to_float(pcm)
    assert x.dtype == torch.float32
    np.testing.assert_array_equal(x.numpy().astype(np.float64) * 32768, values)
    assert torch.equal(float_to_pcm(x), pcm)


def test_float_is_rounded_to_the_nearest_step():
    steps = torch.tensor([0.4, 0.6, 1.4, 1.6, -0.4, -0.6, -1.4, -1.6, 32766.6, -32767.6])
    expected = [0, 1, 1, 2, 0, -1, -1, -2, 32767, -32768]
    pcm = float_to_pcm(steps / 32768)
    assert pcm.dtype == torch.int16
    assert pcm.tolist() == expected


@pytest.mark.parametrize(
    ("x", "expected"), [(1.0, 32767), (1.5, 32767), (1e9, 32767), (-1.0, -32768), (-1e9, -32768)]
)
def test_float_beyond_full_scale_is_clamped_and_does_not_wrap(x: float, expected: int):
    assert float_to_pcm(torch.tensor([x])).tolist() == [expected]


def test_samples_beyond_full_scale_are_clamped_and_counted(tmp_path: Path):
    x = np.array([0.0, 1.0, -1.0, 1.0001, -1.0001, 3.0, -3.0, 0.9999], dtype=np.float32)
    soundfile.write(tmp_path / "x.wav", x, RATE, subtype="FLOAT")
    pcm, n_clamped = decode(tmp_path / "x.wav", RATE)
    assert pcm.tolist() == [0, 32767, -32768, 32767, -32768, 32767, -32768, 32765]
    assert n_clamped == 4


def test_a_tone_of_twice_full_scale_is_clamped_for_two_thirds_of_the_time(tmp_path: Path):
    soundfile.write(tmp_path / "x.wav", tone(437.1, 44100, amplitude=2), 44100, subtype="FLOAT")
    pcm, n_clamped = decode(tmp_path / "x.wav", RATE)
    assert n_clamped / len(pcm) == pytest.approx(2 / 3, abs=0.01)  # |sin| > 1/2 for 2/3 of a turn


# What is written


@pytest.mark.parametrize("name", ["x.wav", "x.wav.part", os.fsdecode(b"\xff")])
def test_what_is_saved_is_a_plain_wav_file_of_these_samples_under_any_name(
    tmp_path: Path, name: str
):
    pcm = np.random.default_rng(0).permutation(np.arange(-(2**15), 2**15)).astype(np.int16)
    save_audio(tmp_path / name, torch.from_numpy(pcm), 8000)
    with (tmp_path / name).open("rb") as file, wave.open(file) as wav:  # Python's own reader
        assert (wav.getnchannels(), wav.getsampwidth(), wav.getframerate()) == (1, 2, 8000)
        assert wav.readframes(2**17) == pcm.astype("<i2").tobytes()
    assert torch.equal(load_audio(tmp_path / name, 8000), torch.from_numpy(pcm))


def test_a_full_disk_is_an_error_with_its_reason():
    with pytest.raises(OSError, match="No space left on device"):
        save_audio(Path("/dev/full"), torch.zeros(9, dtype=torch.int16), RATE)


# What cannot be read


def refusal(path: Path) -> str:
    """Why a file is refused, without its name, with which every message begins."""
    with pytest.raises(AudioError) as error:
        load_audio(path, RATE)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("suffix", [".mp3", ".wav", ".flac", ".ogg", ".opus", ".m4a", ".aac"])
@pytest.mark.parametrize("content", ["text", "random", "zeros"])
def test_what_is_no_audio_is_refused_under_any_extension(tmp_path: Path, content: str, suffix: str):
    path = tmp_path / f"x{suffix}"
    noise = np.random.default_rng(7).bytes(20_000)
    path.write_bytes({"text": b"no music\n" * 999, "random": noise, "zeros": bytes(9999)}[content])
    assert re.fullmatch(
        r"not audio, or damaged \(.+\); get the file again or remove it",
        refusal(path),
    )


@pytest.mark.parametrize("suffix", [".mp3", ".wav", ".m4a"])
def test_an_empty_file_is_refused(tmp_path: Path, suffix: str):
    (tmp_path / f"x{suffix}").touch()
    expected = "the file is empty (0 bytes); get it again or remove it"
    assert refusal(tmp_path / f"x{suffix}") == expected


def test_a_missing_file_is_refused(tmp_path: Path):
    assert refusal(tmp_path / "x.mp3").startswith("cannot be read: No such file or directory; put")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "x.mp3")
    assert refusal(tmp_path / "x.mp3").startswith("a pipe, not a file")


def test_a_folder_is_refused(tmp_path: Path):
    (tmp_path / "x.mp3").mkdir()
    assert refusal(tmp_path / "x.mp3").startswith("cannot be read: Is a directory; put")


def test_a_file_without_read_permission_is_refused(
    tmp_path: Path, write_wav: Callable, unprivileged: Callable
):
    write_wav(tmp_path / "open.wav").chmod(0o444)
    write_wav(tmp_path / "closed.wav").chmod(0o000)
    assert unprivileged(load_audio, "open.wav", RATE).numpy().any()
    with pytest.raises(AudioError, match="^closed.wav: cannot be read: Permission denied; put an"):
        unprivileged(load_audio, "closed.wav", RATE)


def test_an_mp3_that_holds_less_than_it_promises_is_refused_with_both_lengths(tmp_path: Path):
    path = tmp_path / "x.mp3"
    soundfile.write(path, tone(440, 44100, seconds=20), 44100)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 5])
    match = re.fullmatch(
        r"truncated or damaged: (.+) of 20.0 s could be decoded; get the file again", refusal(path)
    )
    assert match
    assert float(match[1]) == pytest.approx(8, abs=0.5)


@pytest.mark.parametrize("name", ["int24.flac", "aac.m4a", "vorbis.ogg", "aac.aac"])
def test_half_a_file_of_any_other_kind_is_refused_where_it_can_be_told(tmp_path: Path, name: str):
    path = tmp_path / name
    FORMATS[name](path, tone(440, 44100), 44100)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert refusal(path).endswith(("get the file again", "get the file again or remove it"))


def test_a_hole_in_an_mp3_is_refused(tmp_path: Path):
    path = tmp_path / "x.mp3"
    soundfile.write(path, tone(440, 44100, seconds=20), 44100)
    holed = bytearray(path.read_bytes())
    third = len(holed) // 3
    holed[third : 2 * third] = bytes(third)
    path.write_bytes(holed)
    assert refusal(path).startswith("not audio, or damaged (")


def test_a_header_without_samples_is_refused(tmp_path: Path):
    soundfile.write(tmp_path / "x.wav", np.zeros(0), RATE)
    expected = "there is no audio in it; get the file again or remove it"
    assert refusal(tmp_path / "x.wav") == expected


def test_a_video_without_sound_is_refused(tmp_path: Path):
    with av.open(str(tmp_path / "x.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
        file.mux(stream.encode(frame.reformat(format="yuv420p")))
        file.mux(stream.encode(None))
    assert "there is no audio in it" in refusal(tmp_path / "x.mp4")


def test_a_codec_that_nobody_knows_is_refused(tmp_path: Path, write_wav: Callable):
    path = write_wav(tmp_path / "x.wav", seconds=1)
    header = bytearray(path.read_bytes())
    header[20:22] = b"\xcd\xab"  # the format tag of a wav file; 1 is PCM
    path.write_bytes(header)
    assert refusal(path).startswith("not audio, or damaged (")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_sample_that_is_no_number_is_named_with_its_time(
    tmp_path: Path, value: float, channels: int
):
    x = np.tile(tone(440, 44100)[:, None], channels)
    x[66150:66152, -1] = value
    soundfile.write(tmp_path / "x.wav", x, 44100, subtype="FLOAT")
    assert refusal(tmp_path / "x.wav") == (
        "sample 66150 (1.50 s) is not a finite number; export the file again or remove it"
    )
