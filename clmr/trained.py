"""What a run of pretraining came to, in words."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Trained:
    """What a run of `train` came to, for the person who started it."""

    run_dir: Path
    last: Path
    best: Path | None
    best_valid_loss: float | None
    n_steps: int
    clips_per_second: float | None
    has_labels: bool
    stopped: str = ""

    def __str__(self) -> str:
        more = "" if self.stopped else ": raise --max_steps or --max_epochs to go on"
        speed = f", {self.clips_per_second:,.1f} clips/s" if self.clips_per_second else (
            f" already{more}"
        )
        lines = [f"trained   {self.n_steps:,} steps{speed}"]
        if self.stopped:
            lines.append(f"stopped   early, as {self.stopped}")
        if self.best:
            lines.append(f"best      {self.best} (validation loss {self.best_valid_loss:.4f})")
        labels = "" if self.has_labels else " --dataset <with labels> --dataset_dir <its folder>"
        lines += [
            f"last      {self.last}",
            f"curves    tensorboard --logdir {self.run_dir}",
            f"next      python linear_evaluation.py --config {self.run_dir}/hparams.yaml "
            f"--checkpoint_path {self.last}{labels}",
        ]
        return "\n".join(lines)


def how_to_go_on(folder: Path) -> str:
    """What to say of a run that was interrupted."""
    return (
        f"saved {folder}/last.ckpt; to go on: python main.py --config {folder}/hparams.yaml "
        f"--checkpoint_path {folder}/last.ckpt"
    )
