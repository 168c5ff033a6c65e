"""Decode every clip of a dataset once, into a PCM store."""

import csv
import json
import logging
import os
import shlex
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from clmr.config import Config
from clmr.datasets import DATASETS, Clip
from clmr.errors import StoreError
from clmr.processes import map_unordered
from clmr.registry import lookup
from clmr.shards import ShardTask, Source, plan_shards, write_shard
from clmr.store import (
    INDEX_FILE,
    PCM_DTYPE,
    PcmStore,
    StoreInfo,
    shard_name,
    write_index,
    writing,
)

FAILURES_FILE = "failures.csv"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preprocessed:
    """What a run of `preprocess` did, for the person who started it."""

    root: Path
    n_clips: int
    n_samples: int
    sample_rate: int
    failures: tuple[tuple[str, str], ...]  # (clip, reason)
    n_clamped: int
    n_clamped_clips: int
    n_decoded: int
    n_workers: int
    seconds: float

    def __str__(self) -> str:
        hours = self.n_samples / self.sample_rate / 3600
        lines = [
            f"store     {self.root}",
            f"clips     {self.n_clips:,} of {self.n_clips + len(self.failures):,}, {hours:.2f} h, "
            f"{self.n_samples * PCM_DTYPE.itemsize / 1e6:,.0f} MB at {self.sample_rate:,} Hz",
        ]
        if self.failures:
            lines.append(f"left out  {len(self.failures):,}, listed in {FAILURES_FILE}:")
            lines += [f"          {name}: {reason}" for name, reason in self.failures[:5]]
            lines += ["          ..."] * (len(self.failures) > 5)
        if self.n_clamped:
            lines.append(
                f"clamped   {self.n_clamped:,} samples of {self.n_clamped_clips:,} clips were "
                "beyond full scale"
            )
        rate = self.n_decoded / self.seconds
        done = f"{rate:,.1f} clips/s with {self.n_workers} processes" if rate else "nothing to do"
        return "\n".join([*lines, f"time      {self.seconds:.1f} s, {done}"])


def store_dir(config: Config) -> Path:
    """Folder of the store that `config` asks for."""
    if config.store_dir:
        return Path(config.store_dir)
    return Path(config.dataset_dir) / "processed" / f"{config.dataset}-{config.sample_rate}"


def open_store(config: Config, clips: list[Clip]) -> PcmStore:
    """Open the store, writing it first where there is none.

    Args:
        config: Settings.
        clips: The dataset's clips, to notice those that came or changed after the store.

    Raises:
        StoreError: The store cannot be written, or is of another sample rate or dataset.
    """
    root = store_dir(config)
    if not (root / INDEX_FILE).is_file():
        log.info("no finished PCM store at %s: preprocessing first", root)
        log.info("%s\n", preprocess(config))
    store = PcmStore(root)
    _check_same_kind(root, store.info, config)
    changed = sum(_has_changed(source, config.dataset_dir) for source in store.sources)
    new = len({clip.id for clip in clips} - set(store.ids) - _failed_ids(root))
    if changed or new:
        log.warning(
            "%d files have changed and %d are new since the store was written; to take them in, "
            "run: %s", changed, new, _command(config),
        )  # fmt: skip
    return store


def preprocess(config: Config) -> Preprocessed:
    """Decode a dataset into its store, going on from the shards that are finished.

    The bytes of the store do not depend on the number of processes, nor on whether the run was
    interrupted on the way. Clips that cannot be decoded, are silent or are shorter than a crop
    are listed in `failures.csv` with the reason.

    Raises:
        DatasetError: The dataset is not there.
        StoreError: The store cannot be written, or no clip at all was usable.
    """
    dataset = lookup("dataset", DATASETS, config.dataset)(config.dataset_dir)
    dataset.prepare()
    started = time.monotonic()
    sources = [Source.of(clip, dataset.dataset_dir) for clip in dataset.clips()]
    root, info = store_dir(config), _info(config)
    with _lock(root), _explained(root):
        tasks = list(plan_shards(root, info, sources))
        _check_no_other_store(root, config)
        notes = {task.number: note for task in tasks if (note := task.finished_note())}
        todo = [task for task in tasks if task.number not in notes]
        n_workers = min(config.workers or os.cpu_count() or 1, max(len(todo), 1))
        if todo:
            (root / INDEX_FILE).unlink(missing_ok=True)  # no index: the store is unfinished
            notes |= _write_shards(todo, n_workers, n_done=_n_clips(tasks) - _n_clips(todo))
        in_order = [notes[task.number] for task in tasks]
        _finish(root, info, in_order)
    return _summary(root, info, in_order, _n_clips(todo), n_workers, time.monotonic() - started)


def _info(config: Config) -> StoreInfo:
    return StoreInfo(config.dataset, config.sample_rate, min_samples=config.audio_length)


def _command(config: Config) -> str:
    """The command line that writes this very store."""
    settings, usual = config.to_dict(), Config().to_dict()
    keys = ("dataset", "dataset_dir", "store_dir", "sample_rate", "audio_length")
    flags = {f"--{key}": str(settings[key]) for key in keys if settings[key] != usual[key]}
    return shlex.join(["python", "preprocess.py", *chain.from_iterable(flags.items())])


def _n_clips(tasks: list[ShardTask]) -> int:
    return sum(len(task.sources) for task in tasks)


def _lock(root: Path) -> AbstractContextManager:
    """Keep a second run away: two writers would tear each other's files."""
    lock = FileLock(root / ".lock")
    try:
        root.mkdir(parents=True, exist_ok=True)
        return lock.acquire(timeout=0)
    except Timeout:
        log.info("another process is writing %s: waiting for it", root)
        return lock.acquire()
    except OSError as error:
        raise StoreError(
            f"the PCM store cannot be written to {root} ({error.strerror or error}): "
            "give another folder by --store_dir"
        ) from error


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    """Say what to do when the disk is full or gone."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{root}: writing stopped ({error.strerror or error}): finished shards are kept; make "
            "room or give another --store_dir, and run the same command again"
        ) from error


def _check_no_other_store(root: Path, config: Config) -> None:
    """Refuse to overwrite the store of another dataset or sample rate."""
    for note_path in sorted(root.glob("shard-*.json"))[:1]:
        try:
            plan = json.loads(note_path.read_text(encoding="utf-8"))["plan"]
            found = StoreInfo(**{f.name: plan[f.name] for f in fields(StoreInfo)})
        except (ValueError, KeyError, TypeError):
            return
        _check_same_kind(root, found, config)


def _check_same_kind(root: Path, found: StoreInfo, config: Config) -> None:
    if (found.dataset, found.sample_rate) != (config.dataset, config.sample_rate):
        raise StoreError(
            f"{root} holds {found.dataset} at {found.sample_rate} Hz, not {config.dataset} at "
            f"{config.sample_rate} Hz. Leave --store_dir out or give another, and run: "
            f"{_command(replace(config, store_dir=''))}"
        )


def _has_changed(source: tuple[str, int, int], dataset_dir: str) -> bool:
    """Whether a source file is another one than the index says; a missing one is no matter."""
    name, size, mtime_ns = source
    try:
        stat = Path(dataset_dir, name).stat()
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) != (size, mtime_ns)


def _failed_ids(root: Path) -> set[str]:
    path = root / FAILURES_FILE
    if not path.is_file():
        return set()
    with path.open(newline="", encoding="utf-8") as file:
        return {row["id"] for row in csv.DictReader(file)}


def _write_shards(tasks: list[ShardTask], n_workers: int, n_done: int) -> dict[int, dict]:
    total, notes = n_done + _n_clips(tasks), {}
    try:
        with (
            closing(map_unordered(write_shard, tasks, n_workers)) as results,
            tqdm(desc="decoding", total=total, initial=n_done, unit=" clips") as bar,
        ):
            for task, note in results:
                notes[task.number] = note
                bar.update(len(task.sources))
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"{len(notes)} of {len(tasks)} shards were written; the same command goes on from there"
        ) from error
    except BrokenProcessPool as error:
        raise StoreError(
            "a decoding process died, perhaps for want of memory: finished shards are kept, run "
            "the same command again, with fewer --workers"
        ) from error
    return notes


def _finish(root: Path, info: StoreInfo, notes: list[dict]) -> None:
    """Write what is read: the failures, then the index; and drop what an older plan left."""
    failures = [failure for note in notes for failure in note["failures"]]
    with writing(root / FAILURES_FILE) as aside, aside.open("w", newline="", encoding="utf-8") as f:
        table = csv.DictWriter(f, ["id", "source", "reason"], lineterminator="\n")
        table.writeheader()
        table.writerows(failures)
    rows = [row for note in notes for row in note["rows"]]
    if not rows:
        raise StoreError(
            f"none of the {len(failures)} clips could be used, the first because: "
            f"{failures[0]['source']}: {failures[0]['reason']}; all reasons: {root / FAILURES_FILE}"
        )
    current = {shard_name(n).removesuffix(".pcm") for n in range(len(notes))}
    for path in root.glob("shard-*"):
        if path.name.split(".")[0] not in current or path.suffix == ".part":
            path.unlink()
    write_index(root, rows, info)


def _summary(
    root: Path, info: StoreInfo, notes: list[dict], n_decoded: int, n_workers: int, seconds: float
) -> Preprocessed:
    rows = [row for note in notes for row in note["rows"]]
    failures = [failure for note in notes for failure in note["failures"]]
    return Preprocessed(
        root=root,
        n_clips=len(rows),
        n_samples=sum(row["n_samples"] for row in rows),
        sample_rate=info.sample_rate,
        failures=tuple((f["source"], f["reason"]) for f in failures),
        n_clamped=sum(row["n_clamped"] for row in rows),
        n_clamped_clips=sum(row["n_clamped"] > 0 for row in rows),
        n_decoded=n_decoded,
        n_workers=n_workers,
        seconds=seconds,
    )
