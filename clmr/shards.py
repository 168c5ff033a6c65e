"""Deal clips out to shards, and write one shard: the unit of work, of progress and of resuming."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from clmr.audio import decode
from clmr.datasets import Clip
from clmr.errors import AudioError
from clmr.store import FORMAT_VERSION, PCM_DTYPE, StoreInfo, shard_name, writing

SHARD_BYTES = 256 * 2**20
MAX_CLIPS_PER_SHARD = 200
MIN_SHARDS = 32  # of a small dataset, so that there is work for every process
LOSSLESS = (".wav", ".flac", ".aif", ".aiff", ".aifc")
LOSSY_RATIO = 8  # PCM bytes a byte of mp3 or the like; a guess, it only sets the size of shards


@dataclass(frozen=True)
class Source:
    """A clip's file as it is now; size -1 is a file that is missing or may not be read."""

    id: str
    name: str
    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, clip: Clip, root: Path) -> "Source":
        inside = clip.path.is_relative_to(root)
        name = str(clip.path.relative_to(root) if inside else clip.path)
        name = name.encode("utf-8", "backslashreplace").decode()
        try:
            stat = clip.path.stat()
        except OSError:
            return cls(clip.id, name, str(clip.path), -1, -1)
        if not os.access(clip.path, os.R_OK):
            return cls(clip.id, name, str(clip.path), -1, stat.st_mtime_ns)
        return cls(clip.id, name, str(clip.path), stat.st_size, stat.st_mtime_ns)

    @property
    def pcm_bytes(self) -> int:
        """About what it will take in the store."""
        lossless = Path(self.path).suffix.lower() in LOSSLESS
        return self.size if lossless else self.size * LOSSY_RATIO


@dataclass(frozen=True)
class ShardTask:
    """What one worker does at a time: some clips in, one shard out.

    The shard `shard-<n>.pcm` has a note of what went into it beside it, `shard-<n>.json`, written
    last. A shard whose note equals the task's plan is done.
    """

    number: int
    root: Path
    info: StoreInfo
    sources: tuple[Source, ...]

    @property
    def pcm_path(self) -> Path:
        return self.root / shard_name(self.number)

    @property
    def note_path(self) -> Path:
        return self.pcm_path.with_suffix(".json")

    def plan(self) -> dict:
        """Everything that the bytes of the shard depend on."""
        sources = [[s.id, s.name, s.size, s.mtime_ns] for s in self.sources]
        return {"format_version": FORMAT_VERSION, **asdict(self.info), "sources": sources}

    def finished_note(self) -> dict | None:
        """The note of this very shard if it is already there, else None."""
        try:
            note = json.loads(self.note_path.read_text(encoding="utf-8"))
            n_samples = sum(row["n_samples"] for row in note["rows"])
            whole = self.pcm_path.stat().st_size == n_samples * PCM_DTYPE.itemsize
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return note if whole and note["plan"] == self.plan() else None


def plan_shards(root: Path, info: StoreInfo, sources: list[Source]) -> Iterator[ShardTask]:
    """Deal the clips out to shards; depends on the clips alone, so that every run agrees."""
    max_clips = min(-(-len(sources) // MIN_SHARDS), MAX_CLIPS_PER_SHARD)
    shard: list[Source] = []
    number, n_bytes = 0, 0
    for source in sources:
        if shard and (len(shard) == max_clips or n_bytes + source.pcm_bytes > SHARD_BYTES):
            yield ShardTask(number, root, info, tuple(shard))
            shard, number, n_bytes = [], number + 1, 0
        shard.append(source)
        n_bytes += source.pcm_bytes
    yield ShardTask(number, root, info, tuple(shard))


def write_shard(task: ShardTask) -> dict:
    """Decode the clips of one shard and write it, then its note; returns the note."""
    rows, failures = [], []
    offset = 0
    task.note_path.unlink(missing_ok=True)
    with writing(task.pcm_path) as aside, aside.open("wb") as file:
        for source in task.sources:
            try:
                pcm, n_clamped = _usable(source, task.info)
            except AudioError as error:
                reason = str(error).removeprefix(f"{source.path}: ")
                failures.append({"id": source.id, "source": source.name, "reason": reason})
                continue
            file.write(pcm.numpy().astype(PCM_DTYPE, copy=False).tobytes())
            place = {"shard": task.number, "offset": offset, "n_samples": len(pcm)}
            stat = {"source": source.name, "size": source.size, "mtime_ns": source.mtime_ns}
            rows.append({"id": source.id, **place, "n_clamped": n_clamped, **stat})
            offset += len(pcm)
        file.flush()
    note = {"plan": task.plan(), "rows": rows, "failures": failures}
    with writing(task.note_path) as aside:
        aside.write_text(json.dumps(note, indent=1), encoding="utf-8")
    return note


def _usable(source: Source, info: StoreInfo) -> tuple[Tensor, int]:
    pcm, n_clamped = decode(source.path, info.sample_rate)
    if len(pcm) < info.min_samples:
        raise AudioError(
            f"{len(pcm) / info.sample_rate:.2f} s is shorter than a crop of "
            f"{info.min_samples / info.sample_rate:.2f} s (--audio_length {info.min_samples})"
        )
    if pcm.min() == pcm.max():
        raise AudioError("silent throughout")
    return pcm, n_clamped
