"""MagnaTagATune's layout, from annotation files written here."""

import logging
import re

import numpy as np
import pytest

from clmr.datasets.magnatagatune import MagnaTagATune
from clmr.errors import DatasetError

# How many usable clips of the published annotations_final.csv have each of its 52 most frequent
# tags, in the order of the published output_labels_mtt.txt, which ends with choral.
COUNTS = {
    "guitar": 4851, "classical": 4270, "slow": 3547, "techno": 2954, "strings": 2727,
    "drums": 2598, "electronic": 2519, "rock": 2371, "fast": 2305, "piano": 2056, "ambient": 1956,
    "beat": 1906, "violin": 1826, "vocal": 1729, "synth": 1717, "female": 1474, "indian": 1395,
    "opera": 1296, "male": 1279, "singing": 1211, "vocals": 1184, "no vocals": 1158,
    "harpsichord": 1092, "loud": 1086, "quiet": 1055, "flute": 1024, "woman": 1016,
    "male vocal": 1002, "no vocal": 995, "pop": 995, "soft": 985, "sitar": 926, "solo": 826,
    "man": 741, "classic": 690, "choir": 688, "voice": 665, "new age": 650, "dance": 649,
    "male voice": 644, "female vocal": 644, "beats": 634, "harp": 622, "cello": 575,
    "no voice": 573, "weird": 557, "country": 541, "metal": 505, "female voice": 505,
    "choral": 490, "electro": 474, "drum": 472,
}  # fmt: skip

TAGS = ("harp", "slow", "opera")
ROWS = (
    ("2", "010", "f/bach-30-59.mp3"),
    ("10", "110", "c/vivaldi-0-29.mp3"),
    ("6", "000", "0/silence-0-29.mp3"),
    ("7", "011", "c/purcell-0-29.mp3"),
)
EMPTY = (
    ("35644", "100", "6/norine_braun-now_and_zen-08-gently-117-146.mp3"),
    ("55753", "100", "8/jacob_heringman-josquin_des_prez_lute_settings-19-gintzler__pater_noster"
     "-204-233.mp3"),
    ("57881", "100", "9/american_baroque-dances_and_suites_of_rameau_and_couperin-25-le_petit_rien"
     "_xiveme_ordre_couperin-88-117.mp3"),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "magnatagatune"
    folder.mkdir()
    return folder


def annotate(folder, tags=TAGS, rows=ROWS, end="\r\n"):
    table = [("clip_id", *tags, "mp3_path"), *((id, *labels, path) for id, labels, path in rows)]
    lines = ["\t".join(f'"{field}"' for field in row) + end for row in table]
    (folder / "annotations_final.csv").write_bytes("".join(lines).encode())
    return MagnaTagATune(folder.parent)


def test_tags_are_the_50_most_frequent_in_the_published_order(folder):
    columns = sorted(COUNTS)  # not by count, and of equal counts not in the published order
    rows = [
        (str(n), ["01"[n < COUNTS[tag]] for tag in columns], f"a/{n}.mp3")
        for n in range(max(COUNTS.values()))
    ]
    assert annotate(folder, columns, rows).tags == tuple(COUNTS)[:50]


def test_with_fewer_tag_columns_all_are_tags_by_count(folder):
    # 3, 1 and 1 clips; of the equal two, opera is published before harp.
    assert annotate(folder).tags == ("slow", "opera", "harp")


def test_clips_have_their_labels_in_the_order_of_the_tags_and_their_split(folder):
    clips = annotate(folder).clips()
    assert [(clip.id, clip.split, clip.labels.tolist()) for clip in clips] == [
        ("2", "test", [1, 0, 0]),
        ("10", "valid", [1, 0, 1]),
        ("6", "train", [0, 0, 0]),  # a clip without any tag is still a clip
        ("7", "valid", [1, 1, 0]),
    ]
    assert clips[0].path == folder / "f" / "bach-30-59.mp3"
    assert {clip.labels.dtype for clip in clips} == {np.dtype(np.uint8)}


def test_the_split_goes_by_the_first_folder(folder):
    rows = [(first, "100", f"{first}/x.mp3") for first in "0123456789abcdef"]
    splits = [clip.split for clip in annotate(folder, rows=rows).clips()]
    assert splits == ["train"] * 12 + ["valid"] + ["test"] * 3


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\n\r\n"])
def test_either_line_end_and_blank_lines_are_read(folder, end):
    assert [clip.id for clip in annotate(folder, end=end).clips()] == ["2", "10", "6", "7"]


def test_the_three_published_empty_files_are_left_out_and_named(folder, caplog):
    with caplog.at_level(logging.INFO):
        dataset = annotate(folder, rows=(*EMPTY, *ROWS))
        assert [clip.id for clip in dataset.clips()] == ["2", "10", "6", "7"]
    assert dataset.tags == ("slow", "opera", "harp")  # the empty files would put harp first
    assert re.findall(r"clip (\d+)", caplog.text) == ["35644", "55753", "57881"]


def test_other_recordings_with_the_ids_of_the_empty_files_stay(folder):
    rows = [(id, labels, "6/other.mp3") for id, labels, _ in EMPTY]
    assert [clip.id for clip in annotate(folder, rows=rows).clips()] == ["35644", "55753", "57881"]


def test_missing_annotations_are_reported_with_the_place_that_was_searched(folder):
    expected = f"at {folder / 'annotations_final.csv'}. Put it there"
    with pytest.raises(DatasetError, match=re.escape(expected)):
        MagnaTagATune(folder.parent).clips()


@pytest.mark.parametrize(("name", "annotated"), [("magnatagatune", False), ("mtat", True)])
def test_the_dataset_folder_itself_is_answered_with_its_parent(tmp_path, name, annotated):
    (tmp_path / name).mkdir()
    if annotated:
        annotate(tmp_path / name)
    with pytest.raises(DatasetError, match=re.escape(f"--dataset_dir {tmp_path}") + "$"):
        MagnaTagATune(tmp_path / name).clips()


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ("id\tharp\tmp3_path", "'id'"),
        ("clip_id\tharp\tpath", "'path'"),
        ("clip_id\tmp3_path", "one or more tags"),
        ("clip_id\tharp\tharp\tmp3_path", "'harp'. more than once"),
        ("clip_id,harp,mp3_path", "separated by tabs"),
        ("", "0 columns"),
    ],
)
def test_another_header_is_refused(folder, header, complaint):
    (folder / "annotations_final.csv").write_text(header)
    with pytest.raises(DatasetError, match=f"annotations_final.csv, line 1: .*{complaint}"):
        _ = MagnaTagATune(folder.parent).tags


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (("8", "01", "a/x.mp3"), "4 fields, expected 5"),
        (("8", "0101", "a/x.mp3"), "6 fields, expected 5"),
        (("8", ("0", "", "1"), "a/x.mp3"), "label '' for tag 'slow', expected 0 or 1"),
        (("8", ("0", "1", "01"), "a/x.mp3"), "label '01' for tag 'opera'"),
        (("8", "012", "a/x.mp3"), "label '2' for tag 'opera'"),
        (("8", "010", "g/x.mp3"), "'g/x.mp3', expected a first folder from 0 to f"),
        (("8", "010", "aa/x.mp3"), "expected a first folder from 0 to f"),
        (("8", "010", "x.mp3"), "expected a first folder from 0 to f"),
        (("8", "010", "/a/x.mp3"), "leads out"),
        (("8", "010", "a/../../x.mp3"), "leads out"),
        (("10", "010", "a/x.mp3"), "clip 10 is in line 3 already"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line(folder, row, complaint):
    with pytest.raises(DatasetError, match=f"annotations_final.csv, line 6: .*{complaint}"):
        annotate(folder, rows=(*ROWS, row)).clips()


def test_a_byte_order_mark_is_no_part_of_the_first_column(folder):
    annotations = folder / "annotations_final.csv"
    annotate(folder)
    annotations.write_text("\ufeff" + annotations.read_text())
    assert len(MagnaTagATune(folder.parent).clips()) == 4


def test_annotations_without_a_clip_are_refused(folder):
    with pytest.raises(DatasetError, match="no clips"):
        annotate(folder, rows=()).clips()


def test_annotations_in_another_encoding_are_refused(folder):
    (folder / "annotations_final.csv").write_bytes("clip_id\tcéleste\tmp3_path".encode("latin1"))
    with pytest.raises(DatasetError, match="UTF-8"):
        MagnaTagATune(folder.parent).clips()


def test_no_audio_at_all_is_one_error_with_an_example(folder):
    expected = (
        f"none of the 4 mp3 files .*{re.escape(str(folder / 'f' / 'bach-30-59.mp3'))}.*0 to f"
    )
    with pytest.raises(DatasetError, match=expected):
        annotate(folder).prepare()


def test_some_missing_audio_is_left_to_preprocessing(folder):
    (folder / "c").mkdir()
    (folder / "c" / "purcell-0-29.mp3").touch()
    annotate(folder).prepare()


ORDER = "MTT_LABELS = ['harp', 'opera', 'slow']\n"  # not the order of the columns, nor by count
LISTS = {
    "output_labels_mtt.txt": "# Output labels\n" + ORDER,
    "index_mtt.tsv": "".join(f"{id}\t{path}\n" for id, _, path in ROWS),
    "train_gt_mtt.tsv": "6\t[0.0, 0.0, 0.0]\n",
    "val_gt_mtt.tsv": "7\t[0.0, 1.0, 1.0]\n10\t[1.0, 0.0, 1.0]\n",
    "test_gt_mtt.tsv": "2\t[0.0, 0.0, 1.0]\n",
}


def publish(folder, **changed):
    for name, text in {**LISTS, **changed}.items():
        (folder / name).write_text(text)
    return annotate(folder)


def test_published_lists_that_agree_change_nothing(folder):
    alone = annotate(folder).clips()
    beside = publish(folder).clips()
    assert [(c.id, c.split, *c.labels) for c in beside] == [
        (c.id, c.split, *c.labels) for c in alone
    ]


@pytest.mark.parametrize("rows", [EMPTY, ()])
def test_the_published_index_may_hold_the_empty_files(folder, rows):
    index = LISTS["index_mtt.tsv"] + "".join(f"{id}\t{path}\n" for id, _, path in rows)
    publish(folder, **{"index_mtt.tsv": index})
    assert len(annotate(folder, rows=(*EMPTY, *ROWS)).clips()) == 4


@pytest.mark.parametrize(
    ("name", "old", "new", "clip_id", "difference"),
    [
        ("val_gt_mtt.tsv", "[1.0, 0.0", "[0.0, 0.0", "10", r"'slow'\] in .*\['harp', 'slow'\] by"),
        ("val_gt_mtt.tsv", "10\t[1.0, 0.0, 1.0]\n", "", "10", "not listed"),
        ("val_gt_mtt.tsv", "10\t", "12\t", "10", "not listed"),
        ("test_gt_mtt.tsv", "2\t", "6\t[0, 0, 0]\n2\t", "6", "not in split 'test'"),
        ("train_gt_mtt.tsv", "6\t", "35644\t[0, 0, 0]\n6\t", "35644", "not in split 'train'"),
        ("index_mtt.tsv", "c/viv", "d/viv", "10", "d/vivaldi-0-29.mp3 in .*c/vivaldi-0-29.mp3 by"),
        ("index_mtt.tsv", "6\t0/silence-0-29.mp3\n", "", "6", "not listed"),
        ("index_mtt.tsv", "6\t0", "12\t0/x.mp3\n6\t0", "12", "unknown"),
    ],
)
def test_a_published_list_that_disagrees_is_reported(folder, name, old, new, clip_id, difference):
    assert old in LISTS[name]
    dataset = publish(folder, **{name: LISTS[name].replace(old, new)})
    with pytest.raises(DatasetError, match=rf"clip {clip_id} is .*{difference}") as error:
        dataset.clips()
    assert str(folder / name) in str(error.value)


def test_without_its_list_of_names_a_published_label_list_has_the_published_order(folder):
    rows = [("1", ["01"[tag == "opera"] for tag in sorted(COUNTS)], "c/x.mp3")]
    (folder / "val_gt_mtt.tsv").write_text(f"1\t{[float(tag == 'opera') for tag in COUNTS][:50]}")
    assert len(annotate(folder, sorted(COUNTS), rows).clips()) == 1


@pytest.mark.parametrize(
    "line",
    [
        "7\t__import__('pathlib').Path('run').touch()",
        "7\t[0.0, 1.0]",
        "7\t[0.0, 1.0, 0.5]",
        "7\t[0.0, 1.0, NaN]",
        "7\t[0.0, 1.0, [1]]",
        "7\t3",
        "7\t" + 9999 * "[",
        "7 [0.0, 1.0, 1.0]",
        "10\t[1.0, 0.0, 1.0]",  # a second time
    ],
)
def test_a_malformed_line_of_a_published_list_is_refused_with_its_number(folder, line):
    dataset = publish(folder, **{"val_gt_mtt.tsv": f"10\t[1.0, 0.0, 1.0]\n{line}\n"})
    with pytest.raises(DatasetError, match="val_gt_mtt.tsv, line 2: .*, expected"):
        dataset.clips()


def test_a_line_of_the_published_index_without_a_path_is_refused_with_its_number(folder):
    dataset = publish(folder, **{"index_mtt.tsv": LISTS["index_mtt.tsv"] + "8 a/x.mp3\n"})
    with pytest.raises(DatasetError, match="index_mtt.tsv, line 5: .*, expected"):
        dataset.clips()


def test_a_list_of_names_without_names_is_refused(folder):
    with pytest.raises(DatasetError, match="output_labels_mtt.txt quotes no tags"):
        publish(folder, **{"output_labels_mtt.txt": "guitar\n"}).clips()
