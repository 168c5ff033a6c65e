import csv
import logging
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clmr.audio import load_audio
from clmr.command import run
from clmr.config import Config
from clmr.datasets import DATASETS, AudioFolder
from clmr.errors import DatasetError, StoreError
from clmr.preprocess import open_store, preprocess
from clmr.store import PcmStore

SCRIPT = Path(__file__).parents[1] / "preprocess.py"
PATIENCE_S = 30
RATE = 22050


@pytest.fixture
def folder(tmp_path: Path, write_wav: Callable) -> Path:
    """Five files, four of them one folder deeper."""
    for i, name in enumerate(("a/1.wav", "a/2.wav", "b/1.wav", "b/2.wav", "c.wav")):
        write_wav(tmp_path / "music" / name, seconds=3 + i / 10, frequency_hz=220 + 110 * i)
    return tmp_path / "music"


@pytest.fixture(scope="module")
def slow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough work to be interrupted: 32 clips, each a shard of its own."""
    folder = tmp_path_factory.mktemp("slow")
    time_s = np.arange(6 * 96_000) / 96_000
    for i in range(4):
        frequencies_hz = 220 * (i + 1) + 55 * np.arange(8)
        x = 0.3 * np.sin(2 * np.pi * frequencies_hz * time_s[:, None])
        soundfile.write(folder / f"{i}.flac", x, 96_000)
    for i in range(4, 32):
        (folder / f"{i}.flac").hardlink_to(folder / f"{i % 4}.flac")
    return folder


@pytest.fixture(scope="module")
def undisturbed(slow_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store of `slow_folder`, written in one go."""
    root = tmp_path_factory.mktemp("undisturbed") / "store"
    preprocess(config(slow_folder, root, workers=2))
    return contents(root)


def config(folder: Path | str, root: Path | str = "", **changes) -> Config:
    settings = {"dataset": "audio", "dataset_dir": str(folder), "store_dir": str(root)}
    return Config(**settings | {"workers": 1} | changes)


def flags(folder: Path, root: Path) -> list[str]:
    return ["--dataset", "audio", "--dataset_dir", str(folder), "--store_dir", str(root)]


def contents(root: Path) -> dict[str, bytes]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def stamps(root: Path, pattern: str = "*") -> dict[str, tuple[int, int]]:
    """Which files these are on disk, and when they were written."""
    found = {path.name: path.stat() for path in root.glob(pattern)}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def failures(root: Path) -> list[dict[str, str]]:
    with (root / "failures.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def clips_of(folder: Path) -> list:
    return AudioFolder(folder).clips()


# The store


@pytest.mark.parametrize("rate", [22050, 16000])
def test_the_store_holds_every_clip_at_the_rate_that_was_asked_for(
    folder: Path, tmp_path: Path, rate: int
):
    preprocess(config(folder, tmp_path / "store", sample_rate=rate, audio_length=1000))
    store = PcmStore(tmp_path / "store")
    assert store.ids == ["a/1.wav", "a/2.wav", "b/1.wav", "b/2.wav", "c.wav"]
    assert store.sample_rate == rate
    for i, name in enumerate(store.ids):
        assert store.n_samples[i] == pytest.approx((3 + i / 10) * rate, abs=1)
        pcm = store.read(i, 0, store.n_samples[i])
        np.testing.assert_array_equal(pcm, load_audio(folder / name, rate))
        spectrum = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm)), 2**18))
        assert spectrum.argmax() * rate / 2**18 == pytest.approx(220 + 110 * i, abs=0.2)


def test_the_bytes_do_not_depend_on_the_number_of_processes(slow_folder, undisturbed, tmp_path):
    assert len(undisturbed) == 2 * 32 + 3  # shards and their notes; index, failures, lock
    for workers in (1, 3):
        preprocess(config(slow_folder, tmp_path / f"{workers}", workers=workers))
        assert contents(tmp_path / f"{workers}") == undisturbed


def test_the_store_lies_in_the_folder_processed_and_nothing_else_is_written(folder: Path):
    before = contents(folder)
    root = preprocess(config(folder)).root
    assert root == folder / "processed" / "audio-22050"
    assert {n: b for n, b in contents(folder).items() if not n.startswith("processed")} == before
    assert {path.name for path in folder.iterdir()} == {"a", "b", "c.wav", "processed"}
    preprocess(config(folder))
    assert len(PcmStore(root)) == 5


def test_nothing_is_written_beside_a_store_that_has_its_own_folder(folder: Path, tmp_path: Path):
    before = contents(folder)
    preprocess(config(folder, tmp_path / "deep" / "store"))
    assert contents(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "music"]


def test_the_summary_counts_clips_hours_and_megabytes(tmp_path: Path, write_wav: Callable):
    write_wav(tmp_path / "music" / "a.wav", seconds=720, sample_rate=8000)
    summary = str(preprocess(config(tmp_path / "music", tmp_path / "store", sample_rate=8000)))
    assert summary.startswith(f"store     {tmp_path / 'store'}\n")
    assert "clips     1 of 1, 0.20 h, 12 MB at 8,000 Hz" in summary  # 720 s * 8000 Hz * 2 bytes
    assert "left out" not in summary
    assert "clamped" not in summary


# Clips that cannot be used


@pytest.fixture
def bad_folder(tmp_path: Path, write_wav: Callable) -> Path:
    """Two good files among eight bad ones."""
    folder = tmp_path / "bad"
    write_wav(folder / "good.wav")
    write_wav(folder / 'z, "good" 音.wav')
    write_wav(folder / "silent.wav", amplitude=0)
    write_wav(folder / "short.wav", seconds=0.1)
    (folder / "text.mp3").write_text("no music\n" * 99)
    (folder / "random.flac").write_bytes(random.Random(0).randbytes(9999))
    (folder / "empty.ogg").touch()
    (folder / "link.wav").symlink_to(folder / "absent.wav")
    x = np.full(99_000, 0.5)
    x[33_075] = np.nan
    soundfile.write(folder / "nan.wav", x, RATE, subtype="FLOAT")
    soundfile.write(folder / "cut.mp3", np.tile([0.5, -0.5], 220_500), RATE)
    os.truncate(folder / "cut.mp3", (folder / "cut.mp3").stat().st_size // 2)
    return folder


REASONS = {
    "cut.mp3": r"truncated or damaged: \d+\.\d of 20\.0 s could be decoded; get the file again",
    "empty.ogg": r"the file is empty \(0 bytes\); get it again or remove it",
    "link.wav": r"cannot be read: No such file or directory; .+",
    "nan.wav": r"sample 33075 \(1\.50 s\) is not a finite number; .+ remove it",
    "random.flac": r"not audio, or damaged \(.+\); get the file again or remove it",
    "short.wav": r"0\.10 s is shorter than a crop of 2\.68 s \(--audio_length 59049\)",
    "silent.wav": r"silent throughout",
    "text.mp3": r"not audio, or damaged \(.+\); get the file again or remove it",
}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_bad_file_is_listed_with_its_reason_and_the_good_ones_stay(
    bad_folder: Path, tmp_path: Path, workers: int
):
    summary = preprocess(config(bad_folder, tmp_path / "store", workers=workers))
    assert PcmStore(tmp_path / "store").ids == ["good.wav", 'z, "good" 音.wav']
    listed = failures(tmp_path / "store")
    assert [row["id"] for row in listed] == list(REASONS)
    for row in listed:
        assert row.keys() == {"id", "source", "reason"}
        assert row["source"] == row["id"]
        assert re.fullmatch(REASONS[row["id"]], row["reason"]), row
    assert re.search(
        r"clips     2 of 10, .*\nleft out  8, listed in failures.csv:\n"
        r"          cut.mp3: truncated .*(\n          .+){4}\n          \.\.\.\n",
        str(summary),
    )


def test_no_clip_vanishes_without_a_word(bad_folder: Path, tmp_path: Path):
    preprocess(config(bad_folder, tmp_path / "store"))
    ids = PcmStore(tmp_path / "store").ids + [row["id"] for row in failures(tmp_path / "store")]
    assert sorted(ids) == [clip.id for clip in clips_of(bad_folder)]


def test_a_file_without_read_permission_is_listed(
    folder: Path, tmp_path: Path, unprivileged: Callable
):
    (folder / "b" / "1.wav").chmod(0o000)
    summary = unprivileged(preprocess, config("music", "store"))
    assert summary.n_clips == 4
    (failure,) = failures(tmp_path / "store")
    assert failure["id"] == "b/1.wav"
    assert failure["reason"].startswith("cannot be read: Permission denied")
    (folder / "b" / "1.wav").chmod(0o444)
    assert unprivileged(preprocess, config("music", "store")).n_clips == 5


def test_a_name_that_is_not_utf8_is_decoded_or_listed_escaped(
    tmp_path: Path, write_wav: Callable, capsys: pytest.CaptureFixture
):
    write_wav(tmp_path / "x.wav")
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (tmp_path / "x.wav").rename(folder / os.fsdecode(b"good \xff.wav"))
    (folder / os.fsdecode(b"bad \xff.wav")).touch()
    assert run(preprocess, ["--dataset", "audio", "--dataset_dir", str(folder)]) == 0
    root = folder / "processed" / "audio-22050"
    assert PcmStore(root).ids == [r"good \udcff.wav"]
    assert [row["id"] for row in failures(root)] == [r"bad \udcff.wav"]
    shown = capsys.readouterr().out
    assert re.search(r"^store .*caf\\udce9/processed(?s:.*)bad \\udcff.wav", shown)


@pytest.mark.parametrize("times", [1, 2])
def test_when_no_clip_can_be_used_it_is_an_error(
    tmp_path: Path, write_wav: Callable, capsys: pytest.CaptureFixture, times: int
):
    write_wav(tmp_path / "music" / "silent.wav", amplitude=0)
    write_wav(tmp_path / "music" / "short.wav", seconds=1)
    root = tmp_path / "store"
    for _ in range(times):
        assert run(preprocess, flags(tmp_path / "music", root)) == 1
        assert re.search(
            r"error: none of the 2 clips could be used, the first because: short.wav: 1.00 s is "
            rf"shorter .*; all reasons: {root}/failures.csv\n",
            capsys.readouterr().err,
        )
    assert [row["id"] for row in failures(root)] == ["short.wav", "silent.wav"]
    assert not (root / "index.parquet").exists()


def test_samples_beyond_full_scale_are_counted_in_the_summary(
    folder: Path, tmp_path: Path, write_wav: Callable
):
    x = np.tile([0.5, -0.5], 40_000)
    x[100:107] = 1.5
    soundfile.write(folder / "loud.wav", x, RATE, subtype="FLOAT")
    assert "clamped   7 samples of 1 clips were beyond full scale" in str(
        preprocess(config(folder, tmp_path / "store"))
    )


# Running it again


def test_a_second_run_does_nothing(folder: Path, tmp_path: Path):
    first = preprocess(config(folder, tmp_path / "store"))
    assert first.n_decoded == 5
    bytes_before, stamps_before = contents(tmp_path / "store"), stamps(tmp_path / "store", "shard*")
    second = preprocess(config(folder, tmp_path / "store", workers=2))
    assert second.n_decoded == 0
    assert str(second).endswith("nothing to do")
    assert str(second).splitlines()[:2] == str(first).splitlines()[:2]
    assert contents(tmp_path / "store") == bytes_before
    assert stamps(tmp_path / "store", "shard*") == stamps_before


def same_as_a_fresh_store(folder: Path, root: Path) -> bool:
    fresh = root.with_name("fresh")
    preprocess(config(folder, fresh))
    return contents(root) == contents(fresh)


def touch(folder: Path, write_wav: Callable) -> None:
    stat = (folder / "b" / "1.wav").stat()
    os.utime(folder / "b" / "1.wav", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def replace(folder: Path, write_wav: Callable) -> None:
    mtime_ns = (folder / "b" / "1.wav").stat().st_mtime_ns
    write_wav(folder / "b" / "1.wav", seconds=5, frequency_hz=1000)
    os.utime(folder / "b" / "1.wav", ns=(mtime_ns, mtime_ns))


@pytest.mark.parametrize("change", [touch, replace])
def test_a_source_file_that_has_changed_is_decoded_anew_and_no_other(
    folder: Path, tmp_path: Path, write_wav: Callable, change: Callable
):
    root = tmp_path / "store"
    preprocess(config(folder, root))
    before = stamps(root, "shard*")
    change(folder, write_wav)
    assert preprocess(config(folder, root)).n_decoded == 1
    after = stamps(root, "shard*")
    assert {name for name in before if after[name] != before[name]} == {
        "shard-00002.json", "shard-00002.pcm"
    }  # fmt: skip
    assert same_as_a_fresh_store(folder, root)


@pytest.mark.parametrize("name", ["d.wav", "0.wav"])
def test_a_file_that_is_new_is_taken_in(
    folder: Path, tmp_path: Path, write_wav: Callable, name: str
):
    preprocess(config(folder, tmp_path / "store"))
    write_wav(folder / name, frequency_hz=3000)
    summary = preprocess(config(folder, tmp_path / "store"))
    assert summary.n_clips == 6
    assert summary.n_decoded == (1 if name == "d.wav" else 6)  # the first moves all the others
    assert same_as_a_fresh_store(folder, tmp_path / "store")


@pytest.mark.parametrize("name", ["c.wav", "a/1.wav"])
def test_a_file_that_is_gone_leaves_the_store(folder: Path, tmp_path: Path, name: str):
    preprocess(config(folder, tmp_path / "store"))
    (folder / name).unlink()
    preprocess(config(folder, tmp_path / "store"))
    assert name not in PcmStore(tmp_path / "store").ids
    assert same_as_a_fresh_store(folder, tmp_path / "store")


def test_a_bad_file_that_was_mended_is_taken_in(folder: Path, tmp_path: Path, write_wav: Callable):
    (folder / "b" / "1.wav").write_text("no music")
    assert preprocess(config(folder, tmp_path / "store")).n_clips == 4
    write_wav(folder / "b" / "1.wav")
    assert preprocess(config(folder, tmp_path / "store")).n_clips == 5
    assert failures(tmp_path / "store") == []


@pytest.mark.parametrize("n_bytes", [0, 1000])
def test_a_damaged_shard_is_written_anew_as_the_error_promises(
    folder: Path, tmp_path: Path, n_bytes: int
):
    root = tmp_path / "store"
    preprocess(config(folder, root))
    whole = contents(root)
    os.truncate(root / "shard-00001.pcm", n_bytes)
    with pytest.raises(StoreError, match="run preprocess.py again, which writes that shard anew"):
        PcmStore(root)
    assert preprocess(config(folder, root)).n_decoded == 1
    assert contents(root) == whole


def test_a_dataset_that_moved_with_its_store_is_not_decoded_again(folder: Path):
    preprocess(config(folder))
    moved = folder.rename(folder.with_name("moved"))
    assert preprocess(config(moved)).n_decoded == 0


def test_another_length_of_crops_decides_anew_which_clips_are_too_short(
    folder: Path, tmp_path: Path, write_wav: Callable
):
    write_wav(folder / "short.wav", seconds=1)
    root = tmp_path / "store"
    assert preprocess(config(folder, root)).n_clips == 5
    assert preprocess(config(folder, root, audio_length=RATE)).n_clips == 6
    assert preprocess(config(folder, root)).n_clips == 5


def test_what_an_interrupted_writer_left_is_cleared_away(folder: Path, tmp_path: Path):
    root = tmp_path / "store"
    preprocess(config(folder, root))
    whole = contents(root)
    for name in ("shard-00001.pcm.part", "shard-00077.pcm", "shard-00077.json"):
        (root / name).write_bytes(b"left over")
    preprocess(config(folder, root))
    assert contents(root) == whole


# Stores of another kind


def test_another_sample_rate_in_the_same_store_is_refused(folder: Path, tmp_path: Path):
    root = tmp_path / "store"
    preprocess(config(folder, root))
    before = contents(root)
    other = config(folder, root, sample_rate=16000)
    for refuse in (preprocess, lambda c: open_store(c, clips_of(folder))):
        with pytest.raises(StoreError, match=re.escape(f"{root} holds audio at 22050 Hz, not ")):
            refuse(other)
    assert contents(root) == before


def test_the_command_that_the_refusal_names_writes_the_store_that_was_wanted(
    folder: Path, tmp_path: Path
):
    preprocess(config(folder, tmp_path / "store"))
    with pytest.raises(StoreError) as error:
        preprocess(config(folder, tmp_path / "store", sample_rate=16000))
    command = re.search(r"run: python preprocess\.py (.*)", str(error.value))[1]
    assert run(preprocess, [*shlex.split(command), "--audio_length", "30000"]) == 0
    assert PcmStore(folder / "processed" / "audio-16000").sample_rate == 16000


def test_another_dataset_in_the_same_store_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "store"
    preprocess(config(folder, root))
    before = contents(root)
    monkeypatch.setitem(DATASETS, "other", AudioFolder)
    other = config(folder, root, dataset="other")
    for refuse in (preprocess, lambda c: open_store(c, clips_of(folder))):
        with pytest.raises(StoreError, match="holds audio at 22050 Hz, not other at 22050 Hz"):
            refuse(other)
    assert contents(root) == before


def test_an_unfinished_store_of_another_rate_is_refused_too(folder: Path, tmp_path: Path):
    preprocess(config(folder, tmp_path / "store"))
    (tmp_path / "store" / "index.parquet").unlink()
    with pytest.raises(StoreError, match="holds audio at 22050 Hz, not audio at 16000 Hz"):
        preprocess(config(folder, tmp_path / "store", sample_rate=16000))


def test_without_a_store_dir_rates_lie_side_by_side(folder: Path):
    for rate in (22050, 16000):
        preprocess(config(folder, sample_rate=rate, audio_length=1000))
    stores = [PcmStore(folder / "processed" / f"audio-{rate}") for rate in (22050, 16000)]
    assert [store.sample_rate for store in stores] == [22050, 16000]


# Opening a store


def test_opening_writes_the_store_where_there_is_none_and_says_so(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    root = tmp_path / "store"
    with caplog.at_level(logging.INFO):
        store = open_store(config(folder, root), clips_of(folder))
        assert len(store) == 5
        assert f"no finished PCM store at {root}: preprocessing first" in caplog.text
        assert "clips     5 of 5" in caplog.text
        caplog.clear()
        open_store(config(folder, root), clips_of(folder))
    assert caplog.text == ""


@pytest.mark.parametrize("change", [touch, replace])
def test_opening_warns_of_files_that_changed_or_came_since(
    folder: Path,
    tmp_path: Path,
    write_wav: Callable,
    caplog: pytest.LogCaptureFixture,
    change: Callable,
):
    (folder / "bad.wav").touch()  # known to be bad, so it is not new
    asked = config(folder, tmp_path / "store")
    preprocess(asked)
    assert open_store(asked, clips_of(folder))
    assert caplog.text == ""
    change(folder, write_wav)
    write_wav(folder / "new.wav")
    write_wav(folder / "newer.wav")
    assert len(open_store(asked, clips_of(folder))) == 5
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "1 files have changed and 2 are new since" in record.message


def test_the_command_that_a_warning_names_does_take_the_files_in(
    folder: Path, tmp_path: Path, write_wav: Callable, caplog: pytest.LogCaptureFixture
):
    asked = config(folder, tmp_path / "my store", sample_rate=16000, audio_length=30_000)
    preprocess(asked)
    write_wav(folder / "new.wav")
    open_store(asked, clips_of(folder))
    command = re.search(r"run: python preprocess\.py (.*)", caplog.text)[1]
    assert run(preprocess, shlex.split(command)) == 0
    caplog.clear()
    assert len(open_store(asked, clips_of(folder))) == 6
    assert caplog.text == ""


def test_a_store_can_be_opened_when_the_sources_are_gone(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    asked, clips = config(folder, tmp_path / "store"), clips_of(folder)
    preprocess(asked)
    for clip in clips:
        clip.path.unlink()
    assert len(open_store(asked, clips)) == 5
    assert caplog.text == ""


def test_a_store_can_be_opened_where_nothing_can_be_written(
    folder: Path, tmp_path: Path, unprivileged: Callable
):
    preprocess(config(folder, tmp_path / "store"))
    (tmp_path / "store").chmod(0o555)
    store = unprivileged(open_store, config("music", "store"), clips_of(folder))
    assert len(store) == 5


# Folders that cannot be used


def test_a_store_below_a_file_is_refused(folder: Path, tmp_path: Path):
    root = folder / "c.wav" / "store"
    expected = rf"cannot be written to {root} \(Not a directory\): give another .* --store_dir"
    with pytest.raises(StoreError, match=expected):
        preprocess(config(folder, root))


@pytest.mark.parametrize("root", ["closed", "closed/store"])
def test_a_folder_without_write_permission_is_refused(
    folder: Path, tmp_path: Path, unprivileged: Callable, root: str
):
    (tmp_path / "closed").mkdir(mode=0o555)
    expected = rf"cannot be written to {root} \(Permission denied\): give another .* --store_dir"
    with pytest.raises(StoreError, match=expected):
        unprivileged(preprocess, config("music", root))


@pytest.mark.parametrize("names", [(), ("notes.txt",)])
def test_a_folder_without_audio_is_refused_and_no_store_is_begun(tmp_path: Path, names: tuple):
    folder = tmp_path / "music"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    with pytest.raises(DatasetError, match=f"no audio files in {folder} or below"):
        preprocess(config(folder))
    assert len(list(folder.iterdir())) == len(names)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"--dataset_dir": "absent"}, "error: there is no folder absent: .* --dataset_dir"),
        ({"--dataset": "audi"}, "error: unknown dataset 'audi' .*did you mean 'audio'"),
        ({"--sample_rat": "8000"}, "error: unknown flag --sample_rat .*'--sample_rate'"),
        ({"--workers": "-1"}, "error: workers: got -1, allowed: at least 0"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_status_1(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, change: dict, expected: str
):
    asked = {"--dataset": "audio", "--dataset_dir": str(folder), "--store_dir": str(tmp_path / "s")}
    assert run(preprocess, [word for pair in (asked | change).items() for word in pair]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(expected + ".*\n", err)


# Disks that are full


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    "name", ["shard-00003.pcm", "shard-00003.json", "failures.csv", "index.parquet"]
)
def test_a_full_disk_leaves_no_half_file_and_the_same_command_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, workers: str
):
    root = tmp_path / "store"
    root.mkdir()
    (root / f"{name}.part").symlink_to("/dev/full")  # the disk is full when this file's turn comes
    command = [*flags(folder, root), "--workers", workers]
    assert run(preprocess, command) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.match(rf"error: {root}: writing stopped \(.*No space left on device.*\): ", error)
    assert error.endswith("give another --store_dir, and run the same command again")
    assert not (root / name).exists()
    with pytest.raises(StoreError, match="unfinished"):
        PcmStore(root)
    finished = stamps(root, "shard*") if workers == "1" else {}
    assert run(preprocess, command) == 0
    assert {name: stamps(root)[name] for name in finished if name.endswith("json")} == {
        name: stamp for name, stamp in finished.items() if name.endswith("json")
    }
    assert same_as_a_fresh_store(folder, root)


def test_a_store_that_is_written_anew_in_part_is_unfinished_until_it_is_whole(
    folder: Path, tmp_path: Path, write_wav: Callable
):
    root = tmp_path / "store"
    preprocess(config(folder, root))
    replace(folder, write_wav)
    (root / "shard-00002.pcm.part").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="No space left on device"):
        preprocess(config(folder, root))
    with pytest.raises(StoreError, match="unfinished"):
        PcmStore(root)
    assert preprocess(config(folder, root)).n_decoded == 1
    assert same_as_a_fresh_store(folder, root)


# The script


def start(*words: str | Path) -> subprocess.Popen:
    """Run preprocess.py in a process group of its own, as a shell does."""
    return subprocess.Popen(
        [sys.executable, SCRIPT, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def wait_for_shards(process: subprocess.Popen, root: Path, n_shards: int) -> None:
    wait_until(lambda: process.poll() is not None or len(list(root.glob("*.json"))) >= n_shards)
    assert process.poll() is None, process.stderr.read()


def status(pid: int) -> tuple[str, int]:
    """State and parent of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "Z", 0
    return fields[0], int(fields[1])


def children(process: subprocess.Popen) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [pid for pid in pids if status(pid)[1] == process.pid]


def wait_until_gone(pids: list[int]) -> None:
    try:
        wait_until(lambda: all(status(pid)[0] == "Z" for pid in pids))
    finally:
        for pid in pids:
            if status(pid)[0] != "Z":
                os.kill(pid, signal.SIGKILL)


def test_a_run_that_is_killed_three_times_goes_on_each_time_to_the_same_bytes(
    slow_folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
):
    root, moments = tmp_path / "store", random.Random(0)
    finished: dict[str, tuple[int, int]] = {}
    for n_shards in (1, 9, 20):
        process = start(*flags(slow_folder, root), "--workers", "2")
        wait_for_shards(process, root, n_shards)
        time.sleep(moments.uniform(0, 0.05))
        workers = children(process)
        process.kill()
        process.wait()
        assert len(workers) >= 2
        wait_until_gone(workers)
        process.communicate()
        assert not (root / "index.parquet").exists()
        assert stamps(root).items() >= finished.items()
        notes = [path.with_suffix("").name for path in root.glob("*.json")]
        assert len(notes) >= n_shards
        finished = {k: v for k, v in stamps(root, "shard-?????.*").items() if k[:11] in notes}
        finished = {k: v for k, v in finished.items() if not k.endswith(".part")}
    summary = preprocess(config(slow_folder, root))
    assert summary.n_decoded == 32 - len(finished) // 2
    assert stamps(root).items() >= finished.items()
    assert contents(root) == undisturbed


def test_ctrl_c_says_how_to_go_on_and_the_next_run_does(
    slow_folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
):
    root = tmp_path / "store"
    process = start(*flags(slow_folder, root), "--workers", "2")
    wait_for_shards(process, root, 4)
    workers = children(process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    pattern = r"\ninterrupted: (\d+) of 32 shards were written; the same command goes on from there"
    n_written = int(re.search(pattern, err)[1])
    wait_until_gone(workers)
    n_found = 32 - preprocess(config(slow_folder, root)).n_decoded
    assert 1 <= n_written <= n_found < 32
    assert contents(root) == undisturbed


def test_a_worker_that_is_killed_is_an_error_and_no_endless_wait(
    slow_folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
):
    root = tmp_path / "store"
    process = start(*flags(slow_folder, root), "--workers", "2")
    wait_for_shards(process, root, 2)
    workers = children(process)
    os.kill(workers[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "\nerror: a decoding process died, perhaps for want of memory: finished shards" in err
    wait_until_gone(workers)
    preprocess(config(slow_folder, root))
    assert contents(root) == undisturbed


def test_two_runs_at_the_same_time_share_the_work_in_turn(
    slow_folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
):
    root = tmp_path / "store"
    runs = [start(*flags(slow_folder, root), "--workers", "1") for _ in range(2)]
    outputs = [process.communicate(timeout=PATIENCE_S) for process in runs]
    assert [process.returncode for process in runs] == [0, 0], outputs
    assert all("clips     32 of 32" in out for out, _ in outputs)
    assert sorted("nothing to do" in out for out, _ in outputs) == [False, True]
    assert contents(root) == undisturbed


def test_the_script_answers_a_mistake_without_a_traceback(tmp_path: Path):
    process = start("--dataset", "audio", "--dataset_dir", tmp_path / "absent")
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert out == ""
    assert err.startswith(f"error: there is no folder {tmp_path / 'absent'}: ")
    assert "Traceback" not in err
