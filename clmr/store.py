"""PCM shards and their index: decoded audio on disk that is mapped, never decoded again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clmr.errors import StoreError

FORMAT_VERSION = 1
PCM_DTYPE = np.dtype("<i2")
INDEX_FILE = "index.parquet"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),  # [samples] from the start of the shard
        ("n_samples", pa.int64()),
        ("n_clamped", pa.int64()),  # samples beyond full scale, after resampling
        ("source", pa.string()),
        ("size", pa.int64()),  # [bytes] of the source
        ("mtime_ns", pa.int64()),  # of the source
    ]
)


@dataclass(frozen=True)
class StoreInfo:
    """What a store as a whole was made with.

    Args:
        dataset: Name of the dataset.
        sample_rate: Of every clip [Hz].
        min_samples: Clips shorter than this were left out [samples].
    """

    dataset: str
    sample_rate: int
    min_samples: int


def shard_name(shard: int) -> str:
    """File name of shard number `shard`."""
    return f"shard-{shard:05d}.pcm"


class PcmStore:
    """Read access to the clips of a store.

    The shards are mapped when they are first read, in each process for itself: a pickled map
    would copy its bytes into every worker.

    Args:
        root: Folder of the store.

    Raises:
        StoreError: There is no finished store at `root`, or a shard has not the size that the
            index says.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        index = self._read_index()
        self.ids: list[str] = index["id"].to_pylist()
        self.n_samples: np.ndarray = index["n_samples"].to_numpy()
        self.sources: list[tuple[str, int, int]] = list(
            zip(*(index[name].to_pylist() for name in ("source", "size", "mtime_ns")), strict=True)
        )
        self.shards: np.ndarray = index["shard"].to_numpy()  # int32 [n], which a clip is in
        self.offsets: np.ndarray = index["offset"].to_numpy()  # int64 [n], of a clip in its shard
        self._maps: dict[int, np.ndarray] = {}
        self._check_sizes()

    @property
    def sample_rate(self) -> int:
        """Samples a second of every clip [Hz]."""
        return self.info.sample_rate

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, clip: int, start: int, n_samples: int) -> np.ndarray:
        """Return a slice of a clip, as a view of the mapped file.

        Args:
            clip: Number of the clip, 0 to `len(self) - 1`.
            start: First sample.
            n_samples: How many samples.

        Shape:
            int16 `[n_samples]`.

        Raises:
            IndexError: The slice is not wholly inside the clip.
        """
        if start < 0 or start + n_samples > self.n_samples[clip]:
            raise IndexError(
                f"samples {start} to {start + n_samples} of clip '{self.ids[clip]}', "
                f"which has {self.n_samples[clip]}"
            )
        first = self.offsets[clip] + start
        return self.shard(self.shards[clip])[first : first + n_samples]

    def shard(self, number: int) -> np.ndarray:
        """All samples of a shard, as a view of the mapped file: int16 `[n]`."""
        if number not in self._maps:
            path = self.root / shard_name(number)
            self._maps[number] = np.asarray(np.memmap(path, PCM_DTYPE, mode="r"))
        return self._maps[number]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_maps": {}}

    def _read_index(self) -> pa.Table:
        path = self.root / INDEX_FILE
        if not path.is_file():
            what = "an unfinished PCM store" if any(self.root.glob("shard-*")) else "no PCM store"
            raise StoreError(f"{what} at {self.root}: run preprocess.py with the same settings")
        try:
            with path.open("rb") as file:  # by its name, pyarrow opens a UTF-8 one only
                index = pq.read_table(file).select(SCHEMA.names)
            metadata = {k.decode(): v.decode() for k, v in (index.schema.metadata or {}).items()}
            version = int(metadata["format_version"])
            self.info = StoreInfo(
                metadata["dataset"], int(metadata["sample_rate"]), int(metadata["min_samples"])
            )
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise StoreError(
                f"{path} is not the index of a PCM store ({error}): remove the folder and run "
                "preprocess.py again"
            ) from error
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{path} has format {version}, this version reads {FORMAT_VERSION}: remove the "
                "folder and run preprocess.py again"
            )
        return index

    def _check_sizes(self) -> None:
        shards, clips = np.unique(self.shards, return_inverse=True)
        ends = np.zeros(len(shards), dtype=np.int64)
        np.maximum.at(ends, clips, self.offsets + self.n_samples)
        for shard, end in zip(shards, ends, strict=True):
            path = self.root / shard_name(int(shard))
            size = path.stat().st_size if path.is_file() else 0
            if size != end * PCM_DTYPE.itemsize:
                raise StoreError(
                    f"{path} has {size} bytes, the index says {end * PCM_DTYPE.itemsize}: "
                    "run preprocess.py again, which writes that shard anew"
                )


def write_index(root: Path, rows: list[dict], info: StoreInfo) -> None:
    """Write the index aside and rename it; from then on the store is whole."""
    metadata = {"format_version": FORMAT_VERSION, **vars(info)}
    schema = SCHEMA.with_metadata({k: str(v) for k, v in metadata.items()})
    table = pa.Table.from_pylist(rows, schema=schema)
    with writing(root / INDEX_FILE) as aside, aside.open("wb") as file:
        pq.write_table(table, file)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give a file aside to write to; it gets its final name only when it is whole and on disk."""
    aside = path.with_name(path.name + ".part")
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
