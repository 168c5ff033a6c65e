"""How Lightning's checkpoints reach the disk."""

from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from clmr.store import writing


def previous_of(path: Path) -> Path:
    """Where the checkpoint is that was at `path` before: `last-1.ckpt` for `last.ckpt`."""
    return path.with_name(f"{path.stem}-1{path.suffix}")


class WholeCheckpoints(TorchCheckpointIO):
    """Write a checkpoint beside its final name, and rename it when it is whole and on disk.

    Lightning's own way goes through the folder for temporary files, and copies where that is on
    another disk: a run that is killed meanwhile is left with half a checkpoint.

    A `last.ckpt` that was there is kept as `last-1.ckpt`: disks damage what was written whole.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as aside:
            torch.save(checkpoint, aside)
            if path.stem == "last" and path.exists():
                path.replace(previous_of(path))  # killed here: --resume auto goes on from that one
