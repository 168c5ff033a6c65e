import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clmr.audio import load_audio
from clmr.datasets import Clip
from clmr.shards import ShardTask, Source, plan_shards, write_shard
from clmr.store import StoreInfo

RATE = 22050
INFO = StoreInfo("audio", RATE, min_samples=59049)


def sources(n: int, size: int = 1000, suffix: str = ".wav") -> list[Source]:
    return [Source(f"{i}", f"{i}{suffix}", f"/audio/{i}{suffix}", size, 0) for i in range(n)]


def plan(clips: list[Source]) -> list[ShardTask]:
    return list(plan_shards(Path("store"), INFO, clips))


def task_of(root: Path, *paths: Path) -> ShardTask:
    clips = [Clip(path.name, path, "train") for path in paths]
    return ShardTask(0, root, INFO, tuple(Source.of(clip, paths[0].parent) for clip in clips))


# The plan


@pytest.mark.parametrize("n", [1, 31, 32, 33, 500, 25_863])
def test_every_clip_is_in_one_shard_and_in_order(n: int):
    tasks = plan(sources(n))
    assert [task.number for task in tasks] == list(range(len(tasks)))
    assert [source for task in tasks for source in task.sources] == sources(n)


def test_a_small_dataset_gives_work_to_many_processes():
    assert len(plan(sources(64))) == 32
    assert len(plan(sources(10))) == 10


def test_a_large_dataset_makes_shards_of_at_most_200_clips_and_about_256_mb():
    mtat = sources(25_863, size=117_000, suffix=".mp3")  # 29 s at 32 kbit/s
    tasks = plan(mtat)
    assert max(len(task.sources) for task in tasks) == 200
    albums = plan(sources(1000, size=100 * 10**6))
    assert {len(task.sources) for task in albums} == {2}  # 268 MB is 2.68 times 100 MB


def test_a_clip_that_is_larger_than_a_shard_has_one_of_its_own():
    tasks = plan([*sources(3), *sources(1, size=10**10), *sources(3)])
    assert [len(task.sources) for task in tasks] == [1] * 7
    assert [len(task.sources) for task in plan(sources(70, size=10**10))] == [1] * 70


# One shard


def test_a_shard_holds_its_clips_one_after_the_other(tmp_path: Path, write_wav: Callable):
    paths = [
        write_wav(tmp_path / f"{f}.wav", seconds=s, sample_rate=rate, channels=2, frequency_hz=f)
        for f, s, rate in ((220, 3, 22050), (440, 4.5, 44100), (660, 3.3, 16000))
    ]
    note = write_shard(task_of(tmp_path, *paths))
    pcm = np.fromfile(tmp_path / "shard-00000.pcm", "<i2")
    assert len(pcm) == round(RATE * (3 + 4.5 + 3.3))
    for row, path, seconds in zip(note["rows"], paths, (3, 4.5, 3.3), strict=True):
        assert row["n_samples"] == round(RATE * seconds)
        clip = pcm[row["offset"] : row["offset"] + row["n_samples"]]
        np.testing.assert_array_equal(clip, load_audio(path, RATE))
        stat = path.stat()
        assert (row["id"], row["source"]) == (path.name, path.name)
        assert (row["size"], row["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns)


def test_clips_that_cannot_be_used_are_left_out_with_the_reason(
    tmp_path: Path, write_wav: Callable
):
    good = write_wav(tmp_path / "good.wav")
    text = tmp_path / "text.mp3"
    text.write_text("no music\n" * 99)
    silent = write_wav(tmp_path / "silent.wav", amplitude=0)
    offset = tmp_path / "offset.wav"
    soundfile.write(offset, np.full(99_000, 0.25), RATE)
    short = write_wav(tmp_path / "short.wav", seconds=0.1)
    absent = tmp_path / "absent.wav"
    note = write_shard(task_of(tmp_path, text, silent, good, offset, short, absent))
    assert [row["id"] for row in note["rows"]] == ["good.wav"]
    reasons = {failure["id"]: failure["reason"] for failure in note["failures"]}
    assert list(reasons) == ["text.mp3", "silent.wav", "offset.wav", "short.wav", "absent.wav"]
    assert reasons["text.mp3"].startswith("not audio, or damaged (")
    assert reasons["silent.wav"] == reasons["offset.wav"] == "silent throughout"
    assert reasons["short.wav"] == "0.10 s is shorter than a crop of 2.68 s (--audio_length 59049)"
    assert reasons["absent.wav"].startswith("cannot be read: No such file or directory")
    np.testing.assert_array_equal(
        np.fromfile(tmp_path / "shard-00000.pcm", "<i2"), load_audio(good, RATE)
    )


@pytest.mark.parametrize(("missing", "n_usable"), [(0, 1), (1, 0)])
def test_a_clip_may_be_as_short_as_a_crop_and_no_shorter(
    tmp_path: Path, write_wav: Callable, missing: int, n_usable: int
):
    path = write_wav(tmp_path / "x.wav", seconds=(INFO.min_samples - missing) / RATE)
    assert len(write_shard(task_of(tmp_path, path))["rows"]) == n_usable


def test_samples_beyond_full_scale_are_counted_per_clip(tmp_path: Path, write_wav: Callable):
    x = np.tile([0.5, -0.5], 40_000)
    x[100:107] = 1.5
    soundfile.write(tmp_path / "loud.wav", x, RATE, subtype="FLOAT")
    tame = write_wav(tmp_path / "tame.wav")
    rows = write_shard(task_of(tmp_path, tame, tmp_path / "loud.wav"))["rows"]
    assert [row["n_clamped"] for row in rows] == [0, 7]


# What counts as done


def test_a_shard_is_done_once_it_is_written(tmp_path: Path, write_wav: Callable):
    task = task_of(tmp_path, write_wav(tmp_path / "x.wav"))
    assert task.finished_note() is None
    note = write_shard(task)
    assert task.finished_note() == note


@pytest.mark.parametrize("change", [{"id": "y"}, {"size": 7}, {"mtime_ns": 7}, {"name": "y.wav"}])
def test_a_shard_of_other_sources_is_not_done(tmp_path: Path, write_wav: Callable, change: dict):
    task = task_of(tmp_path, write_wav(tmp_path / "x.wav"))
    write_shard(task)
    assert replace(task, sources=(replace(task.sources[0], **change),)).finished_note() is None
    assert replace(task, sources=task.sources * 2).finished_note() is None


@pytest.mark.parametrize("info", [{"dataset": "demo"}, {"sample_rate": 16000}, {"min_samples": 1}])
def test_a_shard_with_other_settings_is_not_done(tmp_path: Path, write_wav: Callable, info: dict):
    task = task_of(tmp_path, write_wav(tmp_path / "x.wav"))
    write_shard(task)
    assert replace(task, info=replace(INFO, **info)).finished_note() is None


@pytest.mark.parametrize("note", [None, "", "{", "5", "[]", "{}", '{"rows": []}', b"\xff"])
def test_a_shard_without_a_whole_note_is_not_done(tmp_path: Path, write_wav: Callable, note: str):
    task = task_of(tmp_path, write_wav(tmp_path / "x.wav"))
    write_shard(task)
    if note is None:
        task.note_path.unlink()
    else:
        task.note_path.write_bytes(note if isinstance(note, bytes) else note.encode())
    assert task.finished_note() is None


def test_a_shard_of_another_size_is_not_done(tmp_path: Path, write_wav: Callable):
    task = task_of(tmp_path, write_wav(tmp_path / "x.wav"))
    write_shard(task)
    os.truncate(task.pcm_path, task.pcm_path.stat().st_size - 2)
    assert task.finished_note() is None
    task.pcm_path.unlink()
    assert task.finished_note() is None


def test_the_note_of_an_old_shard_is_gone_before_the_shard_is_written_anew(
    tmp_path: Path, write_wav: Callable
):
    path = write_wav(tmp_path / "x.wav")
    task = task_of(tmp_path, path)
    write_shard(task)
    (tmp_path / "shard-00000.pcm.part").symlink_to("/dev/full")
    pytest.raises(OSError, write_shard, task)
    assert not task.note_path.exists()


def test_the_note_can_be_read_whatever_the_names_are(tmp_path: Path, write_wav: Callable):
    path = tmp_path / os.fsdecode("Ünï 音 ".encode() + b"\xff\xfe.wav")
    write_wav(tmp_path / "x.wav").rename(path)
    write_shard(task_of(tmp_path, path))
    note = json.loads((tmp_path / "shard-00000.json").read_text())
    assert note["rows"][0]["source"] == r"Ünï 音 \udcff\udcfe.wav"
