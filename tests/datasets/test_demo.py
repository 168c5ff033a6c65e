import os
import wave
from pathlib import Path

import numpy as np
import pytest

from clmr.datasets import demo
from clmr.datasets.demo import Demo, draw_clip, render_clip
from clmr.datasets.demo_synthesis import INSTRUMENTS, SAMPLE_RATE, Score, melody, room
from clmr.errors import DatasetError

WINDOW = 3**10
SUSTAINED = {"flute", "violin", "cello", "voice", "synth"}
RINGING = {"guitar", "harpsichord", "bass", "piano", "bells"}
PITCHED = sorted((SUSTAINED | RINGING) - {"bells"})          # a bell's pitch is no period


def play(name: str, note_hz: float = 220.0, velocity: float = 0.5, seed: int = 0) -> np.ndarray:
    """One note of 1 s."""
    return INSTRUMENTS[name][0](note_hz, 1.0, velocity, np.random.default_rng(seed))


def amplitudes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x)), 2**16))
    return np.fft.rfftfreq(2**16, 1 / SAMPLE_RATE), spectrum


def harmonic(x: np.ndarray, f_hz: float) -> float:
    """Amplitude near a frequency, with the sidebands that a vibrato makes."""
    frequencies_hz, spectrum = amplitudes(x)
    return np.sqrt((spectrum[np.abs(frequencies_hz - f_hz) < 0.4 * 220] ** 2).sum())


def pitch_hz(x: np.ndarray, near_hz: float) -> float:
    """One over the lag at which the sound is most like itself, looked for around `near_hz`."""
    autocorrelation = np.fft.irfft(np.abs(np.fft.rfft(x, 2**17)) ** 2)
    lags = np.arange(int(0.7 * SAMPLE_RATE / near_hz), int(1.5 * SAMPLE_RATE / near_hz))
    best = lags[autocorrelation[lags].argmax()]
    left, middle, right = autocorrelation[best - 1 : best + 2]
    return SAMPLE_RATE / (best + 0.5 * (left - right) / (left - 2 * middle + right))


def n_onsets(x: np.ndarray) -> int:
    """Times at which the level of the last 50 ms has risen to twice that of the 50 ms before."""
    level = np.sqrt(np.add.reduceat(x**2, np.arange(0, len(x), SAMPLE_RATE // 20)))
    rises = level[1:] > 2 * level[:-1] + 0.05 * level.max()
    starts_at_once = level[0] > 0.2 * level.max()
    return int(np.count_nonzero(rises[1:] & ~rises[:-1]) + rises[0] + starts_at_once)


def tagged(*tags: str) -> list[int]:
    """Numbers of the clips that have all of these tags."""
    return [i for i in range(demo.N_CLIPS) if set(tags) <= draw_clip(i)[0]]


def rms(pcm: np.ndarray) -> float:
    return float(np.sqrt(np.mean((pcm / 2**15) ** 2)))


# The sound


@pytest.mark.parametrize("frequency_hz", [98.0, 220.0, 587.3])
@pytest.mark.parametrize("name", PITCHED)
def test_a_note_has_the_pitch_that_was_asked_for(name: str, frequency_hz: float):
    assert pitch_hz(play(name, frequency_hz), frequency_hz) == pytest.approx(frequency_hz, rel=0.01)


def test_a_bell_has_the_hum_prime_and_minor_third_of_a_church_bell():
    frequencies_hz, spectrum = amplitudes(play("bells", 440.0))
    for partial_hz in (220, 440, 528):                       # octave below, prime, 6/5 above
        near = np.abs(frequencies_hz - partial_hz) < 30
        assert frequencies_hz[near][spectrum[near].argmax()] == pytest.approx(partial_hz, rel=0.01)
        assert spectrum[near].max() > 0.1 * spectrum.max()


@pytest.mark.parametrize("name", sorted(RINGING | {"drums"}))
def test_what_is_plucked_or_struck_dies_away(name: str):
    first, *_, last = np.array_split(play(name) ** 2, 4)
    assert last.sum() < 0.1 * first.sum()


@pytest.mark.parametrize("name", sorted(SUSTAINED))
def test_what_is_blown_bowed_or_sung_lasts(name: str):
    _, second, third, _ = np.array_split(play(name) ** 2, 4)
    assert 0.5 < third.sum() / second.sum() < 2


@pytest.mark.parametrize("name", sorted(INSTRUMENTS.keys() - {"harpsichord"}))
def test_a_harder_note_is_brighter(name: str):
    def centroid_hz(x: np.ndarray) -> float:
        frequencies_hz, spectrum = amplitudes(x)
        return (frequencies_hz * spectrum**2).sum() / (spectrum**2).sum()

    assert centroid_hz(play(name, velocity=0.9)) > 1.03 * centroid_hz(play(name, velocity=0.1))


def test_a_violin_at_full_pressure_has_the_harmonics_of_a_sawtooth():
    x = play("violin", velocity=1.0)
    for h in (2, 3, 4, 6):
        assert harmonic(x, 220 * h) == pytest.approx(harmonic(x, 220) / h, rel=0.2)


def test_the_synth_has_the_odd_harmonics_of_a_square_wave_and_no_even_ones():
    x = play("synth", velocity=1.0)
    assert harmonic(x, 660) == pytest.approx(harmonic(x, 220) / 3, rel=0.2)
    assert harmonic(x, 440) < 0.01 * harmonic(x, 220)


def test_the_partials_of_a_piano_are_sharp_as_those_of_a_stiff_string():
    frequencies_hz, spectrum = amplitudes(play("piano", 220.0, velocity=1.0))
    near = np.abs(frequencies_hz - 7 * 220) < 60
    assert 1.003 < frequencies_hz[near][spectrum[near].argmax()] / (7 * 220) < 1.03


def test_a_voice_moves_between_vowels_and_a_violin_does_not():
    def change_db(name: str) -> float:
        first, _, last = np.array_split(play(name), 3)
        ratios = [harmonic(last, 220 * h) / harmonic(first, 220 * h) for h in range(1, 13)]
        return float(np.std(20 * np.log10(ratios)))

    assert change_db("voice") > 3 * change_db("violin")


def test_drums_are_noise_without_pitch():
    def flatness(x: np.ndarray) -> float:
        """Geometric over arithmetic mean of the power: 1 for white noise, 0 for a tone."""
        frequencies_hz, spectrum = amplitudes(x)
        power = spectrum[(frequencies_hz > 500) & (frequencies_hz < 9000)] ** 2
        return np.exp(np.log(power + 1e-12).mean()) / power.mean()

    np.testing.assert_array_equal(play("drums", 100.0), play("drums", 400.0))
    assert flatness(play("drums")) > 0.3
    assert max(flatness(play(name)) for name in PITCHED) < 0.1


def test_the_two_strokes_of_the_drums_are_low_and_high():
    def share_below_150_hz(x: np.ndarray) -> float:
        frequencies_hz, spectrum = amplitudes(x)
        return (spectrum[frequencies_hz < 150] ** 2).sum() / (spectrum**2).sum()

    shares = [share_below_150_hz(play("drums", seed=seed)) for seed in range(20)]
    assert min(shares) < 0.2
    assert max(shares) > 0.8


@pytest.mark.parametrize("tempo_bpm", [60, 160])
def test_a_melody_has_about_one_note_per_beat(tempo_bpm: int):
    score = Score(("drums",), tempo_bpm, (0, 2, 4, 7, 9), 0.0, 0.5, -20.0)
    n_notes = [n_onsets(melody("drums", score, 12.0, np.random.default_rng(i))) for i in range(12)]
    assert np.mean(n_notes) == pytest.approx(12.0 * tempo_bpm / 60, rel=0.15)


def test_a_melody_keeps_to_its_scale():
    score = Score(("flute",), 60, (0, 4, 7), 0.0, 0.5, -20.0)          # C, E and G
    x = melody("flute", score, 12.0, np.random.default_rng(0))
    for second in range(12):
        middle = x[SAMPLE_RATE * second + 4000 :][:6000]     # inside a note, of half a beat or more
        semitone = 12 * np.log2(pitch_hz(middle, dominant_hz(middle)) / 440) + 69
        assert min(abs((semitone - pitch + 6) % 12 - 6) for pitch in score.scale) < 0.3


def dominant_hz(x: np.ndarray) -> float:
    frequencies_hz, spectrum = amplitudes(x)
    return frequencies_hz[spectrum.argmax()]


def test_a_room_answers_after_the_sound_and_never_before():
    click = np.zeros(6 * SAMPLE_RATE)
    click[-2000] = 1.0
    answer = np.abs(room(click, np.random.default_rng(0)))
    assert answer[: 5 * SAMPLE_RATE].max() < 1e-4 * answer.max()
    assert answer[-1000:].max() > 1e-4 * answer.max()


# The clips


def test_clips_hold_two_whole_windows_and_are_neither_silent_nor_clipped():
    for number in range(8):
        pcm = render_clip(number)
        assert pcm.dtype == np.int16
        assert pcm.ndim == 1
        assert len(pcm) >= 2 * WINDOW
        assert rms(pcm[:WINDOW]) > 0.001
        assert rms(pcm[WINDOW : 2 * WINDOW]) > 0.001
        assert np.count_nonzero(np.abs(pcm.astype(int)) >= 32_767) == 0


def test_a_clip_is_the_same_whenever_it_is_rendered_and_unlike_the_next():
    np.testing.assert_array_equal(render_clip(7), render_clip(7))
    assert abs(np.corrcoef(render_clip(7), render_clip(8))[0, 1]) < 0.5


def test_every_loud_clip_is_louder_than_every_quiet_one():
    loud = [rms(render_clip(i)) for i in tagged("loud")[:6]]
    quiet = [rms(render_clip(i)) for i in tagged("quiet")[:6]]
    assert min(loud) > 4 * max(quiet)


def test_fast_clips_have_more_onsets_than_slow_ones():
    counts = {
        tempo: [n_onsets(render_clip(i) / 2**15) for i in tagged(tempo, "drums")[:6]]
        for tempo in ("slow", "fast")
    }
    assert np.mean(counts["fast"]) > 1.7 * np.mean(counts["slow"])     # 140 to 180 against 50 to 70


def test_labels_name_what_is_played():
    tags = np.array(Demo.tags)
    for clip in Demo("anywhere").clips():
        has = set(tags[clip.labels == 1])
        n_instruments = len(has & set(INSTRUMENTS))
        assert 1 <= n_instruments <= 3
        assert ("solo" in has) == (n_instruments == 1)
        assert ("ensemble" in has) == (n_instruments == 3)
        assert ("strings" in has) == bool(has & {"violin", "cello"})
        assert not {"slow", "fast"} <= has
        assert not {"quiet", "loud"} <= has


def test_labels_name_the_instruments_of_the_score():
    for number, clip in enumerate(Demo("anywhere").clips()):
        score = draw_clip(number)[1]
        labelled = {name for name in INSTRUMENTS if clip.labels[Demo.tags.index(name)]}
        assert labelled == set(score.instruments)


def test_splits_are_disjoint_and_hold_60_15_and_25_percent():
    clips = Demo("anywhere").clips()
    splits = [clip.split for clip in clips]
    assert {s: splits.count(s) for s in set(splits)} == {"train": 240, "valid": 60, "test": 100}
    assert len({clip.id for clip in clips}) == len({clip.path for clip in clips}) == 400
    assert len({draw_clip(number)[1] for number in range(400)}) == 400


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_every_tag_has_positives_and_negatives_in_every_split(split: str):
    labels = np.array([c.labels for c in Demo("anywhere").clips() if c.split == split])
    assert labels.shape[1] == len(Demo.tags) == len(set(Demo.tags))
    assert labels.dtype == np.uint8
    assert labels.sum(0).min() >= 5
    assert (1 - labels).sum(0).min() >= 5


# The files


def leave_missing(folder: Path, *missing: int) -> None:
    """Put an empty file in the place of every clip but these."""
    for number, clip in enumerate(Demo(folder).clips()):
        clip.path.parent.mkdir(parents=True, exist_ok=True)
        if number not in missing:
            clip.path.touch()


def state(folder: Path) -> dict[Path, tuple[int, int]]:
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}


def test_clips_are_known_before_a_file_is_there_and_stay_the_same(tmp_path: Path):
    before = Demo(tmp_path / "absent").clips()
    assert not (tmp_path / "absent").exists()
    leave_missing(tmp_path)
    for clip, other in zip(before, Demo(tmp_path).clips(), strict=True):
        assert (clip.id, clip.split, clip.path.name) == (other.id, other.split, other.path.name)
        np.testing.assert_array_equal(clip.labels, other.labels)


def test_prepare_renders_what_is_missing_and_only_that(tmp_path: Path):
    leave_missing(tmp_path, 3, 5, 399)
    before = state(tmp_path)
    Demo(tmp_path).prepare()
    after = state(tmp_path)
    assert {p.name for p in after.keys() - before.keys()} == {
        "demo003.wav", "demo005.wav", "demo399.wav"
    }
    assert {path: after[path] for path in before} == before
    Demo(tmp_path).prepare()
    assert state(tmp_path) == after


def test_files_rendered_by_other_processes_hold_the_same_samples(tmp_path: Path):
    leave_missing(tmp_path, 11, 12)
    Demo(tmp_path).prepare()
    for number in (11, 12):
        with wave.open(str(tmp_path / "demo" / f"demo{number:03d}.wav")) as file:
            header = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert header == (1, 2, 22_050)
        np.testing.assert_array_equal(pcm, render_clip(number))


def test_an_interrupted_rendering_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def half_written(file: wave.Wave_write, data: bytes) -> None:
        file.writeframesraw(data[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr(wave.Wave_write, "writeframes", half_written)
    with pytest.raises(KeyboardInterrupt):
        demo.write_clip(0, tmp_path / "demo000.wav")
    assert list(tmp_path.iterdir()) == []


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []
    replace = os.replace
    monkeypatch.setattr(demo, "render_clip", lambda _: np.zeros(10, "<i2"))
    monkeypatch.setattr(
        Path, "replace", lambda a, b: (seen.append((a.stat().st_size, b.exists())), replace(a, b))
    )
    demo.write_clip(0, tmp_path / "demo000.wav")
    assert seen == [(44 + 20, False)]                        # the header of a wav, ten samples
    assert [p.name for p in tmp_path.iterdir()] == ["demo000.wav"]


def test_a_folder_that_cannot_be_written_is_named_with_the_flag_to_change_it(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DatasetError, match=r"file/demo: .*--dataset_dir"):
        Demo(tmp_path / "file").prepare()
