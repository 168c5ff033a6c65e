"""A store whose every sample says where it is from, made without audio."""

from pathlib import Path

import numpy as np

from clmr.store import PcmStore, StoreInfo, shard_name, write_index


def samples_of(clip: int, n_samples: int) -> np.ndarray:
    """What clip number `clip` holds: a ramp of its own, int16."""
    return ((np.arange(n_samples) + 5003 * clip) % 2**16 - 2**15).astype(np.int16)


def write_store(root: Path, lengths: list[int], ids: list[str] | None = None) -> PcmStore:
    """Write clips of these lengths, three to a shard."""
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for shard, first in enumerate(range(0, len(lengths), 3)):
        offset, pcm = 0, []
        for clip in range(first, min(first + 3, len(lengths))):
            pcm.append(samples_of(clip, lengths[clip]))
            name = ids[clip] if ids else f"clip{clip}"
            place = {"shard": shard, "offset": offset, "n_samples": lengths[clip]}
            rows.append({"id": name, **place, "n_clamped": 0,
                         "source": name, "size": 0, "mtime_ns": 0})  # fmt: skip
            offset += lengths[clip]
        (root / shard_name(shard)).write_bytes(np.concatenate(pcm).astype("<i2").tobytes())
    write_index(root, rows, StoreInfo("audio", 22_050, min_samples=1))
    return PcmStore(root)
