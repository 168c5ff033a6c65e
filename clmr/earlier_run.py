"""The run that is gone on with: its checkpoint, its folder, and the settings that it had."""

import logging
from pathlib import Path

from clmr.checkpoint import Checkpoint, read_checkpoint
from clmr.checkpoint_io import previous_of
from clmr.config import Config
from clmr.errors import CheckpointError, ConfigError
from clmr.rundir import run_dir

# What a resumed run may change: where things are and when to stop. All else is the experiment.
FREE_ON_RESUME = frozenset(
    ["dataset_dir", "store_dir", "workers", "gpus", "accelerator", "run_dir", "log_every_n_steps"]
    + ["num_nodes", "compile", "max_epochs", "max_steps", "checkpoint_path", "baselines"]
    + ["augment_chunk", "resume", "save_every_n_steps", "store_device"]
    + ["probe_every", "probe_clips", "early_stopping", "early_stopping_patience"]
    + ["finetuner_mlp", "finetuner_standardize", "finetuner_checkpoint_path"]
    + ["finetuner_max_epochs", "finetuner_batch_size", "finetuner_learning_rate"]
)

log = logging.getLogger(__name__)


def candidates(folder: Path) -> list[Path]:
    """The checkpoints of a run that are there, the latest first."""
    last = folder / "last.ckpt"
    return [path for path in (last, previous_of(last), folder / "best.ckpt") if path.exists()]


def checkpoint_to_resume(config: Config) -> Path | None:
    """The checkpoint that the settings say to go on from; None to start anew.

    With `--resume auto`, what the run itself has written comes before `--checkpoint_path`: the same
    command, requeued, must not go back to where it began.

    Raises:
        ConfigError: `--resume auto` has no folder to look in.
        CheckpointError: There are checkpoints in it, and none can be read.
    """
    given = Path(config.checkpoint_path) if config.checkpoint_path else None
    if config.resume != "auto":
        return given
    if not config.run_dir:
        raise ConfigError(
            "--resume auto goes on with the run of a folder: name it by --run_dir, the same in "
            "every call"
        )
    damaged = []
    for path in (found := candidates(Path(config.run_dir))):
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            damaged.append(str(error))
            log.warning("%s; looking for the one before it", error)
            continue
        log.info("resume    %s", path)
        return path
    if found:
        raise CheckpointError(
            f"no checkpoint of {config.run_dir} can be read:\n"
            + "\n".join(f"  {reason}" for reason in damaged)
            + "\nmove them away to start anew, or give another --run_dir"
        )
    return given


def folder_of_run(config: Config, checkpoint: Path | None, before: Checkpoint) -> Path:
    """The run's folder: a resumed run stays in its own, a new one never writes over another."""
    resumed = str(checkpoint.parent) if checkpoint else ""
    wanted = config.run_dir
    if checkpoint and wanted == before.settings.get("run_dir") and not Path(wanted).exists():
        wanted = ""  # what the settings say of the run is from before it was moved
    folder = run_dir(wanted or resumed, f"pretrain-{config.dataset}")
    if not checkpoint and (found := candidates(folder)):
        raise ConfigError(
            f"--run_dir {folder} holds a run already: go on with it by --checkpoint_path "
            f"{found[0]} or --resume auto, or give another --run_dir"
        )
    return folder


def check_resumable(config: Config, checkpoint: Path, before: Checkpoint) -> None:
    """Refuse to resume with other settings: the checkpoint's optimizer would override some of them.

    Raises:
        CheckpointError: With each setting that differs.
    """
    settings = before.settings
    if "projection_dim" not in settings:
        raise CheckpointError(
            f"{checkpoint} is no checkpoint of main.py: no run can be resumed from it"
        )
    settings = Config().to_dict() | settings  # one that came later was at its default
    differences = [
        f"  --{name}: {settings[name]} in the checkpoint, {value} now"
        for name, value in config.to_dict().items()
        if name not in FREE_ON_RESUME and settings[name] != value
    ]
    if differences:
        same = f"--config {checkpoint.parent}/hparams.yaml"
        raise CheckpointError(
            f"{checkpoint} was trained with other settings:\n"
            + "\n".join(differences)
            + f"\ngive the same ones ({same}), or start anew in another --run_dir"
        )
