import os
import pickle
import re
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clmr.errors import StoreError
from clmr.store import PcmStore, StoreInfo, write_index, writing

INFO = StoreInfo("audio", 22050, 1000)


def noise(n_samples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-(2**15), 2**15, n_samples).astype(np.int16)


CLIPS = {name: noise(n, n) for name, n in (("b", 5000), ("a", 1000), ("ü/音", 7001), ("c", 3000))}
SHARDS = (("b", "a"), ("ü/音", "c"))


def write_store(root: Path) -> Path:
    root.mkdir()
    rows = []
    for shard, names in enumerate(SHARDS):
        pcm = [CLIPS[name] for name in names]
        np.concatenate(pcm).astype("<i2").tofile(root / f"shard-0000{shard}.pcm")
        offset = 0
        for name in names:
            place = {"shard": shard, "offset": offset, "n_samples": len(CLIPS[name])}
            stat = {"source": f"{name}.wav", "size": 7, "mtime_ns": 2**60 + 1}
            rows.append({"id": name, **place, "n_clamped": 0, **stat})
            offset += len(CLIPS[name])
    write_index(root, rows, INFO)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_store(tmp_path / "store")


# Reading


def test_every_clip_comes_back_sample_by_sample(root: Path):
    store = PcmStore(root)
    assert store.ids == list(CLIPS)
    assert len(store) == len(CLIPS)
    for clip, pcm in enumerate(CLIPS.values()):
        assert store.n_samples[clip] == len(pcm)
        read = store.read(clip, 0, len(pcm))
        assert read.dtype == np.int16
        np.testing.assert_array_equal(read, pcm)


def test_any_slice_is_that_of_the_array(root: Path):
    store, rng = PcmStore(root), np.random.default_rng(0)
    pcms = list(CLIPS.values())
    for _ in range(300):
        clip = rng.integers(len(pcms))
        start, end = np.sort(rng.integers(0, len(pcms[clip]) + 1, 2))
        np.testing.assert_array_equal(store.read(clip, start, end - start), pcms[clip][start:end])


def test_a_store_knows_what_it_was_made_of_and_with(root: Path):
    store = PcmStore(root)
    assert store.info == INFO
    assert store.sample_rate == 22050
    assert store.sources == [(f"{name}.wav", 7, 2**60 + 1) for name in CLIPS]


@pytest.mark.parametrize(("start", "n_samples"), [(-1, 10), (991, 10), (0, 1001), (1000, 1)])
def test_a_slice_beyond_its_clip_is_refused_though_the_shard_goes_on(
    root: Path, start: int, n_samples: int
):
    store = PcmStore(root)
    expected = f"samples {start} to {start + n_samples} of clip 'a', which has 1000"
    with pytest.raises(IndexError, match=expected):
        store.read(1, start, n_samples)


def test_a_slice_cannot_be_written_to(root: Path):
    with pytest.raises(ValueError, match="read-only"):
        PcmStore(root).read(0, 0, 10)[:] = 0


def test_pickling_carries_no_audio(root: Path):
    store = PcmStore(root)
    before = len(pickle.dumps(store))
    for clip, pcm in enumerate(CLIPS.values()):
        store.read(clip, 0, len(pcm))
    assert len(pickle.dumps(store)) == before
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).read(1, 0, 1000), CLIPS["a"])
    np.testing.assert_array_equal(store.read(1, 0, 1000), CLIPS["a"])  # still at work itself


def test_a_spawned_process_reads_a_store_that_was_handed_to_it(root: Path):
    store = PcmStore(root)
    store.read(0, 0, 10)
    with get_context("spawn").Pool(1) as pool:
        read = pool.apply(store.read, (2, 17, 5000))
    np.testing.assert_array_equal(read, CLIPS["ü/音"][17:5017])


# Stores that cannot be read


def refusal(root: Path) -> str:
    with pytest.raises(StoreError) as error:
        PcmStore(root)
    return str(error.value)


def test_where_there_is_no_store_the_command_to_write_it_is_named(tmp_path: Path):
    for root in (tmp_path, tmp_path / "absent"):
        assert re.match(f"no PCM store at {re.escape(str(root))}: run preprocess.py", refusal(root))


def test_an_unfinished_store_is_told_from_none(root: Path):
    (root / "index.parquet").unlink()
    assert refusal(root).startswith(f"an unfinished PCM store at {root}: run preprocess.py")


@pytest.mark.parametrize(("n_bytes", "found"), [(-1, "11999"), (-2, "11998"), (2, "12002")])
def test_a_shard_of_another_size_is_refused_with_both_sizes(root: Path, n_bytes: int, found: str):
    shard = root / "shard-00000.pcm"
    os.truncate(shard, shard.stat().st_size + n_bytes)
    message = refusal(root)
    assert message.startswith(f"{shard} has {found} bytes, the index says 12000: ")  # 2 (5000+1000)
    assert "run preprocess.py again" in message


def test_a_missing_shard_is_refused(root: Path):
    (root / "shard-00001.pcm").unlink()
    assert "shard-00001.pcm has 0 bytes, the index says 20002" in refusal(root)


@pytest.mark.parametrize("content", [b"", b"id,shard\n", b"PAR1" + bytes(99) + b"PAR1"])
def test_an_index_that_is_not_parquet_is_refused(root: Path, content: bytes):
    (root / "index.parquet").write_bytes(content)
    message = refusal(root)
    assert message.startswith(f"{root / 'index.parquet'} is not the index of a PCM store (")
    assert message.endswith("): remove the folder and run preprocess.py again")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_index_is_refused(root: Path, share: float):
    index = root / "index.parquet"
    os.truncate(index, int(share * index.stat().st_size))
    assert "is not the index of a PCM store" in refusal(root)


def test_another_parquet_table_is_refused(root: Path):
    pq.write_table(pa.table({"id": ["a"]}), root / "index.parquet")
    assert "is not the index of a PCM store" in refusal(root)


def test_an_index_with_a_column_missing_is_refused(root: Path):
    index = pq.read_table(root / "index.parquet")
    pq.write_table(index.drop_columns(["offset"]), root / "index.parquet")
    assert "is not the index of a PCM store" in refusal(root)


def test_a_store_of_another_format_is_refused_with_both_versions(root: Path):
    index = pq.read_table(root / "index.parquet")
    metadata = index.schema.metadata | {b"format_version": b"99"}
    pq.write_table(index.replace_schema_metadata(metadata), root / "index.parquet")
    assert re.search("has format 99, this version reads 1: remove the folder", refusal(root))


# Writing


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "x.pcm"
    with writing(path) as aside:
        aside.write_bytes(b"half")
        assert not path.exists()
        aside.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_when_writing_fails_nothing_is_left_behind(tmp_path: Path, error: type[BaseException]):
    def fail() -> None:
        with writing(tmp_path / "x.pcm") as aside:
            aside.write_bytes(b"half")
            raise error

    pytest.raises(error, fail)
    assert list(tmp_path.iterdir()) == []


def test_when_writing_fails_what_was_there_before_stays(tmp_path: Path):
    path = tmp_path / "x.pcm"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="full"), writing(path) as aside:  # noqa: PT012
        aside.write_bytes(b"half")
        raise OSError("full")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
