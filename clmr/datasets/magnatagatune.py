"""MagnaTagATune: 25,863 excerpts of 29 s, tagged by players of a game (Law et al., ISMIR 2009)."""

import csv
import logging
import re
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clmr.datasets.base import AudioDataset, Clip
from clmr.datasets.magnatagatune_lists import (
    ANNOTATIONS,
    EMPTY_FILES,
    MEND,
    TOP_50,
    check_published,
)
from clmr.errors import DatasetError

log = logging.getLogger(__name__)

# The split pons2017 goes by the first folder: Pons et al. 2018, arXiv:1711.02520.
SPLITS = dict.fromkeys("0123456789ab", "train") | {"c": "valid"} | dict.fromkeys("def", "test")
class Annotations(NamedTuple):
    """What annotations_final.csv says of the clips that have audio, in the order of the file.

    Shape:
        labels: uint8 `[len(mp3_paths), len(columns)]`, a column for every tag of the file.
    """

    columns: list[str]
    mp3_paths: dict[str, str]  # by clip id
    labels: np.ndarray


class MagnaTagATune(AudioDataset):
    """The clips of `dataset_dir/magnatagatune`, with the 50 most frequent tags.

    The published lists `index_mtt.tsv` and `{train,val,test}_gt_mtt.tsv` are not needed; those
    that lie beside annotations_final.csv are held against it.

    Args:
        dataset_dir: Folder that holds the folder `magnatagatune`.
    """

    def __init__(self, dataset_dir: str | Path) -> None:
        super().__init__(dataset_dir)
        self.folder = self.dataset_dir / "magnatagatune"

    @property
    def tags(self) -> tuple[str, ...]:
        """The most frequent tags first, at most 50."""
        return tuple(self._annotations.columns[column] for column in self._tag_columns)

    def prepare(self) -> None:
        """Say once that there is no audio at all, not once per clip; single gaps are no reason.

        Raises:
            DatasetError: None of the files that the annotations name exists.
        """
        paths = [self.folder / mp3_path for mp3_path in self._annotations.mp3_paths.values()]
        if not any(path.is_file() for path in paths):
            raise DatasetError(
                f"none of the {len(paths):,} mp3 files that {ANNOTATIONS} names exists; expected, "
                f"for example, {paths[0]}. Unpack the folders 0 to f of mp3.zip into {self.folder}"
            )

    def clips(self) -> list[Clip]:
        """List the clips in the order of annotations_final.csv, those without any tag included.

        Raises:
            DatasetError: annotations_final.csv is missing or malformed, or a published list
                beside it disagrees.
        """
        labels = self._annotations.labels[:, self._tag_columns]  # [n_clips, C]
        rows = zip(self._annotations.mp3_paths.items(), labels, strict=True)
        clips = [
            Clip(clip_id, self.folder / mp3_path, SPLITS[mp3_path[0]], clip_labels)
            for (clip_id, mp3_path), clip_labels in rows
        ]
        check_published(self.folder, self.tags, clips)
        return clips

    @cached_property
    def _annotations(self) -> Annotations:
        path = self.folder / ANNOTATIONS
        if not path.is_file():
            raise DatasetError(f"no {ANNOTATIONS} at {path}. {_where_to_look(self.dataset_dir)}")
        return read_annotations(path)

    @cached_property
    def _tag_columns(self) -> list[int]:
        columns, _, labels = self._annotations
        counts = labels.sum(axis=0, dtype=np.int64)
        place = {tag: number for number, tag in enumerate(TOP_50)}
        by_count = sorted(
            range(len(columns)), key=lambda i: (-counts[i], place.get(columns[i], len(place)))
        )
        return by_count[: len(TOP_50)]


def _where_to_look(dataset_dir: Path) -> str:
    """What to do when `dataset_dir/magnatagatune` has no annotations_final.csv."""
    here = dataset_dir.absolute()
    if here.name == "magnatagatune" or (here / ANNOTATIONS).is_file():
        return (
            f"{here} looks like the dataset's own folder: call that folder magnatagatune and pass "
            f"its parent, --dataset_dir {here.parent}"
        )
    return "Put it there, with the mp3 folders 0 to f beside it, or pass another --dataset_dir"


def read_annotations(path: Path) -> Annotations:
    """Read an annotations_final.csv with any number of tags.

    Args:
        path: Tab-separated, quoted text: `clip_id`, a column of 0 and 1 for each tag, `mp3_path`.

    Raises:
        DatasetError: It is not such a file; the message has the line.
    """
    header, *rows = _read_rows(path)
    columns = _tags_of(header, path)
    _check_rows(rows, columns, path)
    usable = []
    for row in filter(None, rows):
        if EMPTY_FILES.get(row[0]) == row[-1]:
            log.info("left out clip %s: %s has no audio as published", row[0], row[-1])
        else:
            usable.append(row)
    if not usable:
        raise DatasetError(f"{path} has a header but no clips, expected one per line. {MEND}")
    text = "".join(chain.from_iterable(row[1:-1] for row in usable)).encode()
    labels = np.frombuffer(text, dtype=np.uint8).reshape(len(usable), len(columns)) - ord("0")
    return Annotations(columns, {row[0]: row[-1] for row in usable}, labels)


def _read_rows(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.reader(file, delimiter="\t")) or [[]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is no tab-separated UTF-8 text: {error}. {MEND}") from error


def _check_rows(rows: list[list[str]], tags: list[str], path: Path) -> None:
    line_of: dict[str, int] = {}
    for line, row in enumerate(rows, 2):
        if not row:
            continue
        if fault := _fault(row, tags):
            raise DatasetError(f"{path}, line {line}: {fault}. {MEND}")
        if line_of.setdefault(row[0], line) != line:
            raise DatasetError(
                f"{path}, line {line}: clip {row[0]} is in line {line_of[row[0]]} already, "
                f"expected every id once. {MEND}"
            )


def _tags_of(header: list[str], path: Path) -> list[str]:
    tags = header[1:-1]
    twice = sorted({tag for tag in tags if tags.count(tag) > 1})
    if header[:1] != ["clip_id"] or header[-1] != "mp3_path" or not tags or twice:
        came = f"{twice} more than once" if twice else f"{header[:2]} to {header[-1:]}"
        raise DatasetError(
            f"{path}, line 1: the {len(header)} columns have {came}; expected clip_id, one or more "
            f"tags, each once, and mp3_path, separated by tabs. {MEND}"
        )
    return tags


def _fault(row: list[str], tags: list[str]) -> str | None:
    """What is wrong with a row, None if nothing is."""
    if len(row) != len(tags) + 2:
        return f"{len(row)} fields, expected {len(tags) + 2}: clip_id, {len(tags)} tags, mp3_path"
    _, *labels, mp3_path = row
    if not {"0", "1"}.issuperset(labels):
        wrong = next(label for label in labels if label not in ("0", "1"))
        return f"label {wrong!r} for tag {tags[labels.index(wrong)]!r}, expected 0 or 1"
    if mp3_path.startswith("/") or ".." in mp3_path.split("/"):
        return f"mp3_path {mp3_path!r} leads out of the dataset's folder, expected one inside it"
    if not re.match("[0-9a-f]/.", mp3_path):
        return f"mp3_path {mp3_path!r}, expected a first folder from 0 to f, as in 'c/name.mp3'"
    return None
