"""The published files beside MagnaTagATune's annotations, held against them."""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import compress
from pathlib import Path

from clmr.datasets.base import Clip
from clmr.errors import DatasetError

ANNOTATIONS = "annotations_final.csv"

# output_labels_mtt.txt of github.com/jordipons/musicnn-training: the order that results are
# published in. It is by count; of tags that are equally frequent, the first here comes first.
TOP_50 = (
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast",
    "piano", "ambient", "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male",
    "singing", "vocals", "no vocals", "harpsichord", "loud", "quiet", "flute", "woman",
    "male vocal", "no vocal", "pop", "soft", "sitar", "solo", "man", "classic", "choir", "voice",
    "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello", "no voice",
    "weird", "country", "metal", "female voice", "choral",
)  # fmt: skip

# Files without a byte in the published archive. Known by path as well as by id, so that other
# recordings in this layout may use the same numbers.
EMPTY_FILES = {
    "35644": "6/norine_braun-now_and_zen-08-gently-117-146.mp3",
    "55753": "8/jacob_heringman-josquin_des_prez_lute_settings-19-gintzler__pater_noster-"
    "204-233.mp3",
    "57881": "9/american_baroque-dances_and_suites_of_rameau_and_couperin-25-"
    "le_petit_rien_xiveme_ordre_couperin-88-117.mp3",
}

PUBLISHED = {"train": "train_gt_mtt.tsv", "valid": "val_gt_mtt.tsv", "test": "test_gt_mtt.tsv"}

MEND = "Mend it, or put the published file in its place"


def check_published(folder: Path, tags: tuple[str, ...], clips: list[Clip]) -> None:
    """Hold the published lists that lie in the dataset's folder against its annotations."""
    index, names = folder / "index_mtt.tsv", folder / "output_labels_mtt.txt"
    if index.is_file():
        listed = EMPTY_FILES | {clip_id: mp3_path for _, clip_id, mp3_path in _read_list(index)}
        expected = EMPTY_FILES | {c.id: c.path.relative_to(folder).as_posix() for c in clips}
        _compare(index, listed, expected, "unknown")
    order = _read_tags(names) if names.is_file() else TOP_50
    for split, name in PUBLISHED.items():
        if (folder / name).is_file():
            expected = {c.id: _tagged(tags, c.labels) for c in clips if c.split == split}
            listed = _read_labels(folder / name, order)
            _compare(folder / name, listed, expected, f"not in split {split!r}")


def _compare(path: Path, listed: dict[str, str], expected: dict[str, str], absent: str) -> None:
    """Raise at the first clip of which a published list and the annotations do not say the same."""
    for clip_id in expected | listed:
        there, here = listed.get(clip_id, "not listed"), expected.get(clip_id, absent)
        if there != here:
            raise DatasetError(
                f"clip {clip_id} is {there} in {path}, but {here} by {ANNOTATIONS} beside it; they "
                f"must agree. Put the published files in place of both, or move {path.name} away"
            )


def _tagged(tags: tuple[str, ...], labels: Iterable[float]) -> str:
    return f"tagged {sorted(compress(tags, labels))}"


def _read_list(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line number, clip id and the rest of every line of a published list."""
    seen = set()
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        clip_id, _, rest = line.partition("\t")
        if not rest or clip_id in seen:
            raise DatasetError(
                f"{path}, line {number}: {line[:60]!r}, expected a clip id that was not listed "
                f"before, a tab, and its mp3_path or labels. {MEND}"
            )
        seen.add(clip_id)
        yield number, clip_id, rest


def _read_labels(path: Path, tags: tuple[str, ...]) -> dict[str, str]:
    listed = {}
    for number, clip_id, text in _read_list(path):
        try:
            labels = json.loads(text)
        except (ValueError, RecursionError):
            labels = None
        if (
            not isinstance(labels, list)
            or len(labels) != len(tags)
            or any(label not in (0, 1) for label in labels)
        ):
            raise DatasetError(
                f"{path}, line {number}: clip {clip_id} has {text[:60]!r}, expected {len(tags)} "
                f"labels that are 0 or 1, in brackets. {MEND}"
            )
        listed[clip_id] = _tagged(tags, labels)
    return listed


def _read_tags(path: Path) -> tuple[str, ...]:
    """Read the names out of `MTT_LABELS = ['guitar', ...]` without running it."""
    names = re.findall("'([^']+)'", path.read_text("utf-8", "replace"))
    if not names:
        raise DatasetError(f"{path} quotes no tags, expected ['guitar', 'classical', ...]. {MEND}")
    return tuple(names)
