"""Which files of a folder are clips, what they are called, and where the split puts them."""

import os
from pathlib import Path

import pytest

from clmr.datasets import AudioFolder
from clmr.errors import DatasetError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def ids(folder: Path) -> list[str]:
    return [clip.id for clip in AudioFolder(folder).clips()]


def test_files_of_nested_folders_are_named_by_their_path_in_order(tmp_path: Path):
    names = ["b.mp3", "a/z.wav", "a/b/c/deep.flac", "B.ogg", "a b/c.wav", "ü/音.wav", "10.wav"]
    touch(*(tmp_path / name for name in names))
    assert ids(tmp_path) == sorted(names)
    assert [clip.path for clip in AudioFolder(tmp_path).clips()] == [
        tmp_path / name for name in sorted(names)
    ]


def test_ids_do_not_depend_on_where_the_folder_is_or_how_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    touch(tmp_path / "x" / "a.wav", tmp_path / "x" / "b" / "c.wav")
    before = ids(tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "y")
    monkeypatch.chdir(tmp_path / "y" / "b")
    for folder in (tmp_path / "y", Path(".."), Path("../../y/"), tmp_path / "y" / "b" / ".."):
        assert ids(folder) == before == ["a.wav", "b/c.wav"]


def test_the_order_is_that_of_the_names_whatever_the_file_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    names = [f"{i}/{j}.wav" for i in range(4) for j in range(4)]
    touch(*(tmp_path / name for name in names))
    walk = os.walk

    def backwards(*args, **kwargs):
        for folder, subfolders, files in walk(*args, **kwargs):
            subfolders.reverse()
            yield folder, subfolders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert ids(tmp_path) == names


@pytest.mark.parametrize(
    "extension",
    ["wav", "flac", "aif", "aiff", "aifc", "mp3", "ogg", "oga", "opus"]
    + ["m4a", "mp4", "aac", "wma", "webm", "mka"],
)
def test_every_audio_extension_counts_in_any_case(tmp_path: Path, extension: str):
    cases = (extension, extension.upper(), extension.capitalize())
    names = [f"{number}.{case}" for number, case in enumerate(cases)]
    touch(*(tmp_path / name for name in names))
    assert ids(tmp_path) == names


def test_other_files_are_passed_over(tmp_path: Path):
    for name in ("a.txt", "cover.jpg", "wav", "x.wav.part", "mp3.cue", "list.m3u", "shard.pcm"):
        touch(tmp_path / name)
    (tmp_path / "folder.wav").mkdir()
    touch(tmp_path / "x.wav")
    assert ids(tmp_path) == ["x.wav"]


def test_names_that_begin_with_a_dot_are_passed_over(tmp_path: Path):
    touch(tmp_path / "._a.wav", tmp_path / ".trash" / "a.wav", tmp_path / "b" / ".c" / "a.wav")
    touch(tmp_path / "a.wav")
    assert ids(tmp_path) == ["a.wav"]


def test_a_dataset_folder_below_a_folder_with_a_dot_is_read(tmp_path: Path):
    touch(tmp_path / ".cache" / "music" / "a.wav")
    assert ids(tmp_path / ".cache" / "music") == ["a.wav"]


def test_links_to_folders_and_files_are_followed(tmp_path: Path):
    touch(tmp_path / "elsewhere" / "a.wav", tmp_path / "b.wav")
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "music" / "c.wav").symlink_to(tmp_path / "b.wav")
    assert ids(tmp_path / "music") == ["c.wav", "link/a.wav"]
    (tmp_path / "alias").symlink_to(tmp_path / "music")
    assert ids(tmp_path / "alias") == ["c.wav", "link/a.wav"]


@pytest.mark.parametrize("target", ["..", ".", "../a", "loop"])
def test_a_loop_of_links_ends_and_lists_each_file_once(tmp_path: Path, target: str):
    touch(tmp_path / "a" / "x.wav", tmp_path / "b" / "y.wav")
    (tmp_path / "a" / "loop").symlink_to(target)
    assert ids(tmp_path) == ["a/x.wav", "b/y.wav"]


def test_a_folder_that_can_be_reached_twice_is_listed_once(tmp_path: Path):
    touch(tmp_path / "a" / "x.wav")
    (tmp_path / "b").symlink_to("a")
    assert ids(tmp_path) == ["a/x.wav"]


def test_a_link_that_leads_nowhere_stays_in_the_list_for_preprocessing_to_report(tmp_path: Path):
    (tmp_path / "x.wav").symlink_to(tmp_path / "absent.wav")
    assert ids(tmp_path) == ["x.wav"]


def test_a_name_that_is_not_utf8_is_escaped_in_the_id_and_kept_in_the_path(tmp_path: Path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    touch(path)
    (clip,) = AudioFolder(tmp_path).clips()
    assert clip.id == r"caf\udce9.wav"
    assert clip.path == path


# The split


def test_a_tenth_of_the_clips_is_for_validation(tmp_path: Path):
    for i in range(4000):
        (tmp_path / f"{i}.wav").touch()
    splits = [clip.split for clip in AudioFolder(tmp_path).clips()]
    assert set(splits) == {"train", "valid"}
    # Of 4000 independent draws of 0.1, four standard deviations are 4 * sqrt(4000 * 0.1 * 0.9).
    assert splits.count("valid") == pytest.approx(400, abs=76)


def test_a_clip_keeps_its_split_when_others_come_or_go(tmp_path: Path):
    touch(*(tmp_path / f"{i}.wav" for i in range(0, 200, 2)))
    before = {clip.id: clip.split for clip in AudioFolder(tmp_path).clips()}
    touch(*(tmp_path / f"{i}.wav" for i in range(1, 200, 2)))
    (tmp_path / "0.wav").unlink()
    after = {clip.id: clip.split for clip in AudioFolder(tmp_path).clips()}
    assert len(after) == 199
    assert {name: after[name] for name in before if name in after} == {
        name: split for name, split in before.items() if name != "0.wav"
    }


def test_the_split_is_the_same_on_every_machine(tmp_path: Path):
    # How the output of sha256sum begins for each name; below 0x1999, a tenth of 0x10000, is valid.
    digests = {"17": 0x0317, "207": 0x1793, "142": 0x1A97, "0": 0x1B3B, "b": 0xD4D7}
    touch(*(tmp_path / f"{name}.wav" for name in digests))
    expected = {f"{n}.wav": "valid" if d < 0x1999 else "train" for n, d in digests.items()}
    assert {clip.id: clip.split for clip in AudioFolder(tmp_path).clips()} == expected


# Folders that are no dataset


def test_a_missing_folder_is_named_with_the_flag_to_change_it(tmp_path: Path):
    for folder in (tmp_path / "absent", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(DatasetError, match=rf"no folder {folder}: .* --dataset_dir"):
            AudioFolder(folder).clips()


@pytest.mark.parametrize("names", [(), ("notes.txt",), (".hidden.wav", ".x/a.wav")])
def test_a_folder_without_audio_is_named_with_what_was_looked_for(tmp_path: Path, names: tuple):
    touch(*(tmp_path / name for name in names))
    expected = rf"no audio files in {tmp_path} or below: .*\.wav .*\.m4a .* --dataset_dir"
    with pytest.raises(DatasetError, match=expected):
        AudioFolder(tmp_path).clips()
