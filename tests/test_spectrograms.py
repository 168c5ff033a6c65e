"""Pictures of sounds whose look is known."""

import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from clmr.spectrograms import COLUMNS, LINE_LENGTH, Row, mel_level, save_picture, title_lines

RATES = [1000, 8000, 22_050, 48_000, 192_000]


def tone(f_hz, n_samples, sample_rate):
    return 0.5 * torch.sin(2 * math.pi * f_hz * torch.arange(n_samples) / sample_rate)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def picture(path, levels, n_samples=9000, sample_rate=8000, title="it"):
    rows = [Row(f"{number:02d}", title, level) for number, level in enumerate(levels)]
    save_picture(path, "what it is", rows, n_samples, sample_rate)
    return pixels(path)


@pytest.mark.parametrize("sample_rate", RATES)
def test_a_tone_is_a_line_at_its_height_on_the_mel_scale(sample_rate):
    f_hz = sample_rate / 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as torchaudio warns of bands without a bin
        level = mel_level(tone(f_hz, 2 * sample_rate, sample_rate), sample_rate)
    mel = [2595 * math.log10(1 + f / 700) for f in (f_hz, sample_rate / 2)]
    band = mel[0] / mel[1] * (len(level) + 1) - 1  # middles are equally spaced, 0 and M + 1 outside
    assert (level.mean(dim=1).argmax() - band).abs() < 1


@pytest.mark.parametrize("sample_rate", [1000, 22_050, 96_000])
@pytest.mark.parametrize("n_samples", [1, 2, 100, 10_000, 1_000_000])
def test_a_sound_of_any_length_and_rate_has_a_spectrogram_of_limited_width(sample_rate, n_samples):
    level = mel_level(torch.ones(n_samples), sample_rate)
    assert min(n_samples // 10, COLUMNS // 2) <= level.shape[1] <= min(n_samples + 1, COLUMNS)
    assert level.isfinite().all()


@pytest.mark.parametrize("n_samples", [20_000, 2_000_000])
def test_a_sound_in_the_last_quarter_is_in_the_last_quarter_of_the_picture(n_samples):
    x = tone(1000, n_samples, 22_050)
    x[: n_samples * 3 // 4] = 0
    loud = mel_level(x, 22_050).amax(dim=0) > -20
    first = loud.nonzero()[0].item() / len(loud)
    assert first == pytest.approx(0.75, abs=0.04)
    assert loud[int(len(loud) * 0.8) :].all()


def test_silence_is_the_floor_of_16_bits():
    assert mel_level(torch.zeros(5000), 8000).unique().tolist() == pytest.approx([-60])


def test_a_louder_row_is_brighter_in_the_one_scale_of_all_rows(tmp_path):
    x = tone(1000, 9000, 8000) + 0.01 * torch.randn(9000, generator=torch.manual_seed(0))
    image = picture(tmp_path / "x.png", [mel_level(x, 8000), mel_level(x / 10, 8000)])
    upper, lower = (
        part[np.ptp(part, axis=-1) > 20].mean()  # of what has a colour
        for part in np.array_split(image[60:-70, 150:-200], 2)
    )
    assert upper > 1.2 * lower


def test_a_higher_sound_is_higher_in_the_picture(tmp_path):
    heights = []
    for band in (5, 50):
        level = torch.full((64, 100), -60.0)
        level[band] = 0
        image = picture(tmp_path / "x.png", [level])
        inside = image[:, image.shape[1] // 3]
        heights.append(np.flatnonzero(np.ptp(inside, axis=-1) > 30).mean())
    assert heights[1] < heights[0] - 50  # pixels are counted from the top; a row has about 100


def test_silence_is_dark(tmp_path):
    level = mel_level(torch.zeros(9000), 8000)
    image = picture(tmp_path / "x.png", [level, level])
    column = image[:, image.shape[1] // 2].max(axis=-1)
    dark = column < 10
    assert dark.sum() / len(column) > 0.5
    assert (dark | (column == 255)).sum() / len(column) > 0.95  # the rest is white


def test_a_long_title_takes_a_line_more_and_every_row_its_place(tmp_path):
    level = mel_level(tone(1000, 9000, 8000), 8000)
    heights = [
        picture(tmp_path / "x.png", [level] * n_rows, title=title).shape[0]
        for n_rows, title in [(1, "it"), (2, "it"), (3, "it"), (1, "long " * 60)]
    ]
    one, two, three, one_long = heights
    assert two - one == pytest.approx(three - two, abs=1)
    assert one < one_long < two


def test_a_title_breaks_between_steps_and_not_within_one():
    steps = ["polarity", *(f"reverb: room scale {number}" for number in range(20))]
    lines = title_lines(" · ".join(steps))
    assert max(map(len, lines)) <= LINE_LENGTH
    assert len(lines) == 3  # 8 letters, 20 times 20 or 21, and 20 times 3 between them
    kept = [step.replace("\N{NO-BREAK SPACE}", " ") for line in lines for step in line.split(" · ")]
    assert [step.removesuffix(" ·") for step in kept] == steps


@pytest.mark.parametrize("name", [r"a $\frac{1$ _b", "Ünï 音", "a\nb"])
@pytest.mark.filterwarnings("error")
def test_a_name_may_hold_any_letters(tmp_path, name):
    save_picture(tmp_path / "x.png", name, [Row("00", name, torch.zeros(64, 9))], 9, 9000)
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_a_picture_that_cannot_be_written_is_an_error():
    with pytest.raises(OSError, match="No space left on device"):
        save_picture("/dev/full", "x", [Row("00", "x", torch.zeros(64, 9))], 9, 9000)
