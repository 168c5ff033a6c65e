"""`python -m clmr augment`, in process; what was drawn is known from the chain and the seed."""

import os
import re
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import clmr.augment
from clmr import spectrograms
from clmr.__main__ import main
from clmr.audio import pcm_to_float
from clmr.augment import MOST_ROWS, augment
from clmr.augmentations import AUGMENTATIONS, Augmentation, Chain, drawn_for
from clmr.config import load_config
from clmr.errors import ConfigError
from clmr.modules.contrastive_learning import chain_of

RATE = 8000  # low, to be quick; the filters need it
N_SAMPLES = 6000
NONE = {f"transforms_{name}": 0 for name in AUGMENTATIONS}
ALL = {f"transforms_{name}": 1 for name in AUGMENTATIONS}
# What a name says, in the order of the chain.
PARSED = re.compile(
    r"(?P<polarity>-polarity)?"
    r"(-noise-(?P<snr>[\d.]+))?"
    r"(-gain(?P<gain_db>[+-][\d.]+)db)?"
    r"(-filters(?P<high_pass>-highpass)?(?P<low_pass>-lowpass)?-(?P<cutoff_hz>[\d.]+)hz)?"
    r"(-delay-(?P<delay_ms>\d+)ms)?"
    r"(-pitch(?P<cents>[+-]\d+)c)?"
    r"(-reverb-(?P<reverberance>\d+)-(?P<damping>\d+)-(?P<room_scale>\d+))?"
    r"(?P<reverse>-reverse)?"
)


def pcm_of(n_samples=N_SAMPLES, amplitude=0.3):
    x = amplitude * np.random.default_rng(0).standard_normal(n_samples)
    return (x.clip(-0.99, 0.99) * 2**15).astype(np.int16)


@pytest.fixture
def song(tmp_path):
    soundfile.write(tmp_path / "song.wav", pcm_of(), RATE)
    return tmp_path / "song.wav"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "copies"


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch):
    """An empty picture, which takes no time; tests of the picture ask for `pictured`."""
    monkeypatch.setattr(clmr.augment, "mel_level", lambda x, sample_rate: None)
    monkeypatch.setattr(clmr.augment, "save_picture", lambda path, *_: path.write_bytes(b"\x89"))


@pytest.fixture
def pictured(monkeypatch):
    monkeypatch.setattr(clmr.augment, "mel_level", spectrograms.mel_level)
    monkeypatch.setattr(clmr.augment, "save_picture", spectrograms.save_picture)


def words(file, out, n=3, **changed):
    settings = {"sample_rate": RATE, **changed}
    return [str(file), "--out", str(out), "--n", str(n)] + [
        word for name, value in settings.items() for word in (f"--{name}", str(value))
    ]


def command(file, out, n=3, **changed):
    """Run the command; its exit status."""
    return main(["augment", *words(file, out, n, **changed)])


def drawn_by_the_chain(n, **changed):
    """The chain of these settings and what it draws for n rows."""
    argv = [f"--{name}={value}" for name, value in {"sample_rate": RATE, **changed}.items()]
    config = load_config(argv)
    chain = chain_of(config, torch.Generator().manual_seed(config.seed))
    return chain, chain.draw(n)


def names(out):
    return sorted(path.name for path in out.iterdir())


def wavs(out):
    """Samples of the files in order of their names, [files, n_samples]."""
    read = [soundfile.read(path, dtype="int16") for path in sorted(out.glob("*.wav"))]
    assert {rate for _, rate in read} == {RATE}
    return np.stack([pcm for pcm, _ in read]).astype(int)


def refused(capsys, status=1):
    """The message of a refusal, which is one line on stderr."""
    printed, err = capsys.readouterr()
    assert printed == ""
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


# What is written.


@pytest.mark.parametrize("changed", [{}, ALL, {"transforms_noise": 0.5, "seed": 7}])
def test_names_say_what_was_drawn(song, out, changed):
    assert command(song, out, n=6, **changed) == 0
    _, draws = drawn_by_the_chain(6, **changed)
    original, *copies = [name for name in names(out) if name.endswith(".wav")]
    assert original == "song-00-original.wav"
    assert len(copies) == 6
    for row, name in enumerate(copies):
        number, said = re.fullmatch(r"song-(\d\d)(-.*)\.wav", name).groups()
        assert int(number) == row + 1
        found = PARSED.fullmatch("" if said == "-unchanged" else said).groupdict()
        drawn = drawn_for(draws, row)
        assert bool(found.pop("polarity")) == ("polarity" in drawn)
        assert bool(found.pop("reverse")) == ("reverse" in drawn)
        expected = {k: v for step in drawn.values() for k, v in step.items() if k != "seed"}
        for switch in ("high_pass", "low_pass"):
            assert bool(found.pop(switch)) == expected.pop(switch, False)
        values = {key: float(value) for key, value in found.items() if value}
        assert values == pytest.approx(expected, rel=0.005)


def test_files_are_the_original_and_what_the_chain_makes_of_it(song, out):
    assert command(song, out, n=4, **ALL) == 0
    chain, draws = drawn_by_the_chain(4, **ALL)
    pcm = torch.from_numpy(pcm_of())
    expected = chain.apply(pcm_to_float(pcm).expand(4, 1, -1), draws)[:, 0] * 2**15
    original, *copies = wavs(out)
    np.testing.assert_array_equal(original, pcm)
    # Rounding is half a step; a row of a batch differs from one alone by an FFT's rounding.
    np.testing.assert_allclose(copies, expected.clamp(-(2**15), 2**15 - 1), atol=4)
    assert np.abs(np.diff(copies, axis=0)).max(axis=1).min() > 100  # each is another


def test_polarity_alone_gives_exactly_the_negative(song, out):
    assert command(song, out, n=2, **NONE | {"transforms_polarity": 1}) == 0
    assert names(out)[1:4] == [
        "song-00-original.wav", "song-01-polarity.wav", "song-02-polarity.wav"
    ]  # fmt: skip
    original, *copies = wavs(out)
    for copy in copies:
        np.testing.assert_array_equal(copy, -original)


def test_a_copy_for_which_nothing_was_drawn_is_unchanged_and_says_so(song, out):
    assert command(song, out, n=1, **NONE) == 0
    assert names(out) == ["augmented.png", "song-00-original.wav", "song-01-unchanged.wav"]
    original, copy = wavs(out)
    np.testing.assert_array_equal(copy, original)


def test_settings_of_a_file_count_and_flags_before_the_file_too(song, out, tmp_path):
    lines = [f"{name}: {float(p)}" for name, p in (NONE | {"transforms_reverse": 1}).items()]
    (tmp_path / "my.yaml").write_text("\n".join(lines))
    flags = ["--transforms_polarity", "1", "--config", str(tmp_path / "my.yaml")]
    assert main(["augment", *flags, *words(song, out, n=1)]) == 0
    assert "song-01-polarity-reverse.wav" in names(out)
    original, copy = wavs(out)
    np.testing.assert_array_equal(copy, -original[::-1])


def test_a_file_is_resampled_to_the_sample_rate_that_was_asked_for(tmp_path, out):
    soundfile.write(tmp_path / "x.wav", pcm_of(4 * N_SAMPLES), 4 * RATE)
    assert command(tmp_path / "x.wav", out, n=1, **NONE | {"sample_rate": 2 * RATE}) == 0
    for path in out.glob("*.wav"):
        info = soundfile.info(path)
        assert (info.samplerate, info.frames) == (2 * RATE, 2 * N_SAMPLES)


def test_a_seed_gives_the_same_files_and_another_seed_others(song, tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert command(song, tmp_path / folder, seed=seed) == 0
    assert names(tmp_path / "a") == names(tmp_path / "b") != names(tmp_path / "c")
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_summary_names_every_file_and_counts_what_was_clamped(tmp_path, out, capsys):
    loud = pcm_of(amplitude=1)
    soundfile.write(tmp_path / "loud.wav", loud, RATE)
    only_reverb = NONE | {"transforms_reverb": 1}
    assert command(tmp_path / "loud.wav", out, **only_reverb) == 0
    lines = capsys.readouterr().out.splitlines()
    chain, draws = drawn_by_the_chain(3, **only_reverb)
    y = chain.apply(pcm_to_float(torch.from_numpy(loud)).expand(3, 1, -1), draws)
    n_clamped = int((y.abs() > 1).sum())
    assert n_clamped > 1000
    picture, original, *copies = names(out)
    assert lines[0] == f"original  {out}/{original} (0.75 s at 8,000 Hz)"
    assert lines[1] == f"copies    3 in {out}"
    assert [line.strip() for line in lines[2:5]] == copies
    found = re.fullmatch(r"clamped   ([\d,]+) of 18,000 samples beyond full scale", lines[5])
    assert int(found[1].replace(",", "")) == pytest.approx(n_clamped, abs=2)
    assert lines[6:] == [f"picture   {out}/{picture}"]


def test_where_nothing_was_clamped_the_summary_does_not_speak_of_it(song, out, capsys):
    assert command(song, out, **NONE) == 0
    assert "\nclamped" not in capsys.readouterr().out


def test_copies_are_made_one_at_a_time(song, out, monkeypatch):
    def apply(chain, x, draws):
        shapes.append(tuple(x.shape))
        return original(chain, x, draws)

    original, shapes = Chain.apply, []
    monkeypatch.setattr(Chain, "apply", apply)
    assert command(song, out) == 0
    assert shapes == [(1, 1, N_SAMPLES)] * 3


def test_a_progress_bar_is_shown(song, out, capsys):
    assert command(song, out, **NONE) == 0
    assert "augmenting: 100%" in capsys.readouterr().err


# The picture.


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.usefixtures("pictured")
def test_the_picture_shows_a_row_a_file_each_as_its_sound_is(tmp_path, out):
    x = pcm_of(30_000)
    x[:15_000] = 0  # silent, then loud; played backwards the other way round
    soundfile.write(tmp_path / "x.wav", x, RATE)
    assert command(tmp_path / "x.wav", out, n=1, **NONE | {"transforms_reverse": 1}) == 0
    image = pixels(out / "augmented.png")
    width = image.shape[1]
    upper, lower = np.array_split(image[60:-70], 2)

    def brightness(part, at):
        strip = part[:, round(at * width) - 20 : round(at * width) + 20]
        return strip[strip.sum(axis=-1) < 3 * 255].mean()  # of what is not paper

    assert brightness(upper, 0.7) > 5 * brightness(upper, 0.3)
    assert brightness(lower, 0.3) > 5 * brightness(lower, 0.7)


@pytest.mark.usefixtures("pictured")
def test_the_picture_ends_where_nobody_could_look_any_more(song, tmp_path, monkeypatch, capsys):
    assert command(song, tmp_path / "2", n=2, **NONE) == 0
    assert "the first" not in capsys.readouterr().out
    monkeypatch.setattr(clmr.augment, "MOST_ROWS", 3)
    assert command(song, tmp_path / "9", n=9, **NONE) == 0
    assert capsys.readouterr().out.endswith("augmented.png (the first 2)\n")
    assert len(list((tmp_path / "9").glob("*.wav"))) == 10
    few, many = (pixels(tmp_path / folder / "augmented.png") for folder in "29")
    assert few.shape == many.shape
    assert MOST_ROWS * 150 < 2**16  # pixels, where matplotlib ends


# Files that are unusual.


def test_silence_stays_silent(tmp_path, out):
    soundfile.write(tmp_path / "x.wav", np.zeros(N_SAMPLES, np.int16), RATE)
    assert command(tmp_path / "x.wav", out, **ALL) == 0
    assert not wavs(out).any()


@pytest.mark.usefixtures("pictured")
@pytest.mark.parametrize("n_samples", [1, 2, 100, 1000])
def test_a_file_may_have_a_few_samples_only(tmp_path, out, n_samples):
    soundfile.write(tmp_path / "x.wav", pcm_of(n_samples), RATE)
    assert command(tmp_path / "x.wav", out, n=2, **ALL) == 0
    assert wavs(out).shape == (3, n_samples)
    assert pixels(out / "augmented.png").std() > 10


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("song", "song"),
        ("Ünï 音", "Ünï 音"),
        ("音" * 80, "音" * 26),  # three bytes each
        ('a:b*c?d"e<f>g|h\\i\n', "a_b_c_d_e_f_g_h_i_"),
        (os.fsdecode(b"x\xff"), "x_"),
        ("$\\frac{", "$_frac{"),
        ("take-12", "take-12"),
    ],
)
def test_names_are_short_and_of_characters_that_every_file_system_takes(
    tmp_path, out, stem, expected
):
    soundfile.write(tmp_path / "x.wav", pcm_of(), RATE)
    (tmp_path / "x.wav").rename(tmp_path / f"{stem}.wav")
    assert command(tmp_path / f"{stem}.wav", out, n=1, **ALL) == 0
    _, original, copy = sorted(names(out), key=lambda name: ".png" not in name)
    assert original == f"{expected}-00-original.wav"
    assert copy.startswith(f"{expected}-01-polarity-noise-")
    assert copy.endswith("-reverse.wav")
    assert len(f"{copy}.part".encode()) <= 255


def test_names_sort_as_they_are_numbered_beyond_a_hundred(tmp_path, out, monkeypatch):
    monkeypatch.setattr(clmr.augment, "MOST_ROWS", 1)
    soundfile.write(tmp_path / "x.wav", pcm_of(10), RATE)
    assert command(tmp_path / "x.wav", out, n=101, **NONE) == 0
    numbers = [int(name.split("-")[1]) for name in names(out) if name.endswith("wav")]
    assert numbers == list(range(102))


class Newcomer(Augmentation):
    """An augmentation that nobody knows, with parameters of every kind."""

    def draw(self, n):
        return {
            "hold_ms": torch.full((n,), 250),
            "wet": torch.ones(n, dtype=torch.bool),
            "tilt_db": torch.full((n,), 3.25),
            "noise_seed": torch.full((n,), 99),
            **{f"extra{number}": torch.full((n,), 123456) for number in range(self.n_extra)},
        }

    def apply(self, x, parameters):
        return x / 2

    n_extra = 0


@pytest.mark.parametrize("n_extra", [0, 50])
def test_a_newcomers_augmentation_needs_no_change_here(song, out, monkeypatch, n_extra):
    monkeypatch.setitem(AUGMENTATIONS, "polarity", Newcomer)
    monkeypatch.setattr(Newcomer, "n_extra", n_extra)
    assert command(song, out, n=1, **NONE | {"transforms_polarity": 1}) == 0
    *_, copy = names(out)
    assert copy.startswith("song-01-polarity-250ms-wet+3.25db")
    assert ("99" in copy, len(copy) < 255) == (False, True)
    np.testing.assert_allclose(*(wavs(out) * [[1], [2]]), atol=1)


# What is refused.


def test_a_copy_of_nans_is_refused_and_not_written(song, out, monkeypatch, capsys):
    monkeypatch.setattr(Newcomer, "apply", lambda self, x, parameters: x * torch.nan)
    monkeypatch.setitem(AUGMENTATIONS, "polarity", Newcomer)
    assert command(song, out, **NONE | {"transforms_polarity": 1}) == 1
    assert f"{song}: 6000 samples are too few for one of: polarity; give" in refused(capsys)
    assert names(out) == ["song-00-original.wav"]


@pytest.mark.parametrize("n", [0, -1])
def test_fewer_than_one_copy_is_refused(song, out, n, capsys):
    assert command(song, out, n=n) == 1
    assert refused(capsys) == f"error: --n: got {n}, allowed: at least 1"
    assert not out.exists()


def test_a_file_that_is_not_there_or_no_audio_is_refused(tmp_path, out, capsys):
    assert command(tmp_path / "nothing.mp3", out) == 1
    assert "nothing.mp3: cannot be read: No such file or directory" in refused(capsys)
    (tmp_path / "text.mp3").write_text("no music\n" * 999)
    assert command(tmp_path / "text.mp3", out) == 1
    assert "text.mp3: not audio, or damaged" in refused(capsys)
    assert not out.exists()


def test_the_reference_chain_is_refused(song, out, capsys):
    assert command(song, out, augmentations="reference") == 1
    assert "this command shows the chain of clmr; give --augmentations clmr" in refused(capsys)


def test_a_sample_rate_that_is_too_low_for_the_filters_is_refused(song, out, capsys):
    assert command(song, out, sample_rate=4000) == 1
    assert "--transforms_filters" in refused(capsys)


@pytest.mark.parametrize("inside", ["", "sub"])
def test_an_out_that_is_a_file_or_inside_one_is_refused(song, tmp_path, inside, capsys):
    (tmp_path / "file").write_text("mine")
    assert command(song, tmp_path / "file" / inside) == 1
    assert f"--out {tmp_path / 'file' / inside} cannot be written to (" in refused(capsys)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_may_not_be_written_to_is_refused(song, tmp_path, unprivileged):
    (tmp_path / "closed").mkdir(mode=0o555)
    config = load_config(["--sample_rate", str(RATE)])
    for folder in ("closed", "closed/new"):
        with pytest.raises(ConfigError, match=rf"--out {folder} cannot .* \(Permission denied\)"):
            unprivileged(partial(augment, config, Path("song.wav"), Path(folder), 1))


@pytest.mark.parametrize("full_at", [0, 2, 4])
def test_a_full_disk_leaves_no_half_file(song, out, full_at, capsys):
    copies = [f"song-0{number}-polarity.wav" for number in (1, 2, 3)]
    order = ["song-00-original.wav", *copies, "augmented.png"]
    out.mkdir()
    (out / f"{order[full_at]}.part").symlink_to("/dev/full")  # full when this file's turn comes
    settings = NONE | {"transforms_polarity": 1}
    assert command(song, out, **settings) == 1
    assert f"--out {out} cannot be written to (No space left on device): " in refused(capsys)
    assert names(out) == sorted(order[:full_at])
    assert command(song, out, **settings) == 0  # the same command, once there is room
    assert names(out) == sorted(order)


def test_copies_of_other_draws_are_not_mixed_with_these(song, out, capsys):
    settings = NONE | {"transforms_gain": 1}
    assert command(song, out, **settings) == 0
    before = names(out)
    capsys.readouterr()
    assert command(song, out, seed=2, **settings) == 1
    assert f"--out {out} holds 3 copies with other draws, as song-01-gain-" in refused(capsys)
    assert names(out) == before
    (out.parent / "song.wav").rename(out.parent / "other.wav")
    assert command(out.parent / "other.wav", out, seed=2, **settings) == 0


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "the following arguments are required: FILE, --out; see --help"),
        (["FILE"], "the following arguments are required: --out; see --help"),
        (["FILE", "--out"], "argument --out: expected one argument; see --help"),
        (["FILE", "--out", "OUT", "--n", "few"], "argument --n: invalid int value: 'few'; see"),
        (["--otu", "OUT", "FILE"], "unknown flag --otu (did you mean '--out'?); see --help"),
        (["--transforms_pich", "1", "FILE"],
         "unknown flag --transforms_pich (did you mean '--transforms_pitch'?); see --help"),
        (["FILE", "--out", "OUT", "--seed=-1"], "seed: got -1, allowed: at least 0 and at most"),
        (["FILE", "FILE", "--out", "OUT"], "unrecognized arguments: FILE; see --help"),
        (["FILE", "--out", "OUT", "--transforms_pitch", "2"], "transforms_pitch: got 2.0, allowed"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_one_line_and_status_1(argv, expected, capsys):
    assert main(["augment", *argv]) == 1
    assert refused(capsys).startswith(f"error: {expected}")


def test_help_shows_the_arguments_and_the_settings_that_count(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["augment", "--help"])
    assert not exit.value.code
    printed = capsys.readouterr().out
    assert "every key of config/config.yaml is a flag" in printed
    for shown in ("FILE", "--out DIR", "--n N", "--config FILE", "--seed VALUE"):
        assert shown in printed
    for name in NONE:
        assert f"--{name} VALUE" in printed
    assert "--learning_rate" not in printed


# Ctrl-C.


def test_ctrl_c_says_what_was_written_and_all_of_that_is_whole(song, out, monkeypatch, capsys):
    def save(path, pcm, sample_rate):
        if "song-02" in path.name:
            path.write_bytes(b"RIFF")
            signal.raise_signal(signal.SIGINT)
        original(path, pcm, sample_rate)

    original = clmr.augment.save_audio
    monkeypatch.setattr(clmr.augment, "save_audio", save)
    settings = NONE | {"transforms_polarity": 1}
    assert command(song, out, **settings) == 130
    assert f"interrupted: 2 of 4 files were written to {out}" in capsys.readouterr().err
    assert names(out) == ["song-00-original.wav", "song-01-polarity.wav"]
    assert wavs(out).shape == (2, N_SAMPLES)
