"""Pretrain an encoder by contrast."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint

from clmr.allocator import keep_freed_memory
from clmr.callbacks import (
    ProgressBar,
    SaveOnInterrupt,
    SettingsLogger,
    ThroughputLogger,
    ViewsLogger,
    board,
)
from clmr.checkpoint import read_checkpoint
from clmr.checkpoint_io import WholeCheckpoints
from clmr.config import Config
from clmr.datamodule import ContrastiveDataModule
from clmr.datasets import DATASETS
from clmr.device import choose_devices, choose_precision
from clmr.errors import CheckpointError, ConfigError, DivergedError, status_of
from clmr.finite import StopOnNaN
from clmr.modules import ContrastiveLearning
from clmr.preprocess import open_store
from clmr.probing import build_probes, check_probes
from clmr.registry import lookup
from clmr.resume import GoOnAtTheStep, candidates, checkpoint_to_resume
from clmr.rundir import run_dir

DEFAULT_MAX_EPOCHS = 200
# What a resumed run may change: where things are and when to stop. All else is the experiment.
FREE_ON_RESUME = frozenset(
    ["dataset_dir", "store_dir", "workers", "gpus", "accelerator", "run_dir", "log_every_n_steps"]
    + ["max_epochs", "max_steps", "checkpoint_path", "baselines", "augment_chunk"]
    + ["resume", "save_every_n_steps"]
    + ["probe_every", "probe_clips", "early_stopping", "early_stopping_patience"]
    + ["finetuner_mlp", "finetuner_standardize", "finetuner_checkpoint_path"]
    + ["finetuner_max_epochs", "finetuner_batch_size", "finetuner_learning_rate"]
)

log = logging.getLogger(__name__)


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


def train(config: Config) -> Trained | None:
    """Pretrain on a dataset, preprocessing it first where that has not been done.

    Returns:
        What came of it; None on all devices but the first.

    Raises:
        ClmrError: The settings, the dataset, its store or the checkpoint to resume from do not do.
        DivergedError: The loss or the weights are NaN or infinite.
        KeyboardInterrupt: Ctrl-C; `last.ckpt` is saved and the message says how to go on.
        Terminated: SIGTERM; the same.
    """
    accelerator, n_devices = choose_devices(config.accelerator, config.gpus)
    # Kept with the run as what it is, as a resumed run goes on in it on whatever device.
    config = replace(config, precision=choose_precision(config.precision, accelerator))
    if accelerator == "cpu":
        keep_freed_memory()
    checkpoint = checkpoint_to_resume(config)
    folder = _folder(config, checkpoint)
    if checkpoint:
        _check_resumable(config, checkpoint)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    module = ContrastiveLearning(config)
    _check_crop(config, module)
    dataset = lookup("dataset", DATASETS, config.dataset)(config.dataset_dir)
    check_probes(config, bool(dataset.tags))
    clips = dataset.clips()
    data = ContrastiveDataModule(config, open_store(config, clips), clips)
    data.check_enough_clips(n_devices)
    probes = build_probes(config, data, dataset.tags)

    last = ModelCheckpoint(folder, "last", enable_version_counter=False)
    best = ModelCheckpoint(folder, "best", monitor="Valid/loss", enable_version_counter=False)
    n_steps = config.save_every_n_steps
    within_epoch = ModelCheckpoint(
        folder, "last", every_n_train_steps=n_steps, enable_version_counter=False
    )
    throughput, interrupt = ThroughputLogger(), SaveOnInterrupt(folder / "last.ckpt")
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=n_devices,
        precision=config.precision,
        sync_batchnorm=accelerator == "gpu" and n_devices > 1,
        use_distributed_sampler=False,  # CropSampler gives every device its part
        max_epochs=_max_epochs(config),
        max_steps=config.max_steps or -1,
        logger=board(folder),
        callbacks=[
            SettingsLogger(config.to_dict()),
            LearningRateMonitor("step"),
            throughput,
            ViewsLogger(),
            ProgressBar(),
            interrupt,
            *probes,
            GoOnAtTheStep(),
            StopOnNaN(folder / "last.ckpt"),
            last,
            *([within_epoch] if n_steps else []),
            *([best] if data.can_validate(n_devices) else []),
        ],
        log_every_n_steps=config.log_every_n_steps,
        plugins=[WholeCheckpoints()],
        limit_val_batches=None if data.can_validate(n_devices) else 0,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    _introduce(config, data, trainer, folder)
    try:
        with interrupt:
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # how Lightning ends after Ctrl-C
        if not interrupt.interrupted:
            raise
        error = interrupt.error(_how_to_go_on(folder))
        if trainer.is_global_zero:
            raise error from None
        raise SystemExit(status_of(error)) from None
    except DivergedError:  # on all devices; one says so
        if trainer.is_global_zero:
            raise
        raise SystemExit(1) from None
    finally:  # Lightning ends the reading processes of that loop only which it was in
        trainer.fit_loop.teardown()
    if not trainer.is_global_zero:
        return None
    stopped = probes[0].stopped if probes else ""
    return _summary(folder, trainer, best, throughput, bool(dataset.tags), stopped)


def _folder(config: Config, checkpoint: Path | None) -> Path:
    """The run's folder: a resumed run stays in its own, a new one never writes over another."""
    resumed = str(checkpoint.parent) if checkpoint else ""
    folder = run_dir(config.run_dir or resumed, f"pretrain-{config.dataset}")
    if not checkpoint and (found := candidates(folder)):
        raise ConfigError(
            f"--run_dir {folder} holds a run already: go on with it by --checkpoint_path "
            f"{found[0]} or --resume auto, or give another --run_dir"
        )
    return folder


def _max_epochs(config: Config) -> int:
    if config.max_epochs is not None:
        return config.max_epochs
    return -1 if config.max_steps is not None else DEFAULT_MAX_EPOCHS


def _check_crop(config: Config, module: ContrastiveLearning) -> None:
    try:
        module.model.encoder.check_length(config.audio_length)
    except ValueError as error:
        raise ConfigError(f"--encoder {config.encoder}: {error}") from error


def _check_resumable(config: Config, checkpoint: Path) -> None:
    """Refuse to resume with other settings: the checkpoint's optimizer would override some of them.

    Raises:
        CheckpointError: With each setting that differs.
    """
    settings = read_checkpoint(checkpoint).settings
    if "projection_dim" not in settings:
        raise CheckpointError(
            f"{checkpoint} is no checkpoint of main.py: no run can be resumed from it"
        )
    differences = [
        f"  --{name}: {settings.get(name)} in the checkpoint, {value} now"
        for name, value in config.to_dict().items()
        if name not in FREE_ON_RESUME and settings.get(name) != value
    ]
    if differences:
        same = f"--config {checkpoint.parent}/hparams.yaml"
        raise CheckpointError(
            f"{checkpoint} was trained with other settings:\n"
            + "\n".join(differences)
            + f"\ngive the same ones ({same}), or start anew in another --run_dir"
        )


def _introduce(
    config: Config, data: ContrastiveDataModule, trainer: pl.Trainer, folder: Path
) -> None:
    if not trainer.is_global_zero:
        return
    limits = {"steps": config.max_steps or -1, "epochs": _max_epochs(config)}
    ends = [f"{limit:,} {unit}" for unit, limit in limits.items() if limit > 0]
    log.info("run       %s", folder)
    log.info(
        "pretrain  %s on %s: %d clips, %d to validate, batch %d on %d %s, precision %s, until %s",
        config.encoder, config.dataset, len(data.train.clips), len(data.valid.clips),
        config.batch_size, trainer.world_size, trainer.accelerator.name().upper(),
        config.precision,
        " or ".join(ends),
    )  # fmt: skip
    if not data.can_validate(trainer.world_size):
        log.warning("too few clips in the valid split: no validation loss and no best.ckpt")


def _summary(
    folder: Path,
    trainer: pl.Trainer,
    best: ModelCheckpoint,
    throughput: ThroughputLogger,
    has_labels: bool,
    stopped: str,
) -> Trained:
    validated = bool(best.best_model_path)
    return Trained(
        run_dir=folder,
        last=folder / "last.ckpt",
        best=folder / "best.ckpt" if validated else None,
        best_valid_loss=float(best.best_model_score) if validated else None,
        n_steps=trainer.global_step,
        clips_per_second=throughput.n_clips / throughput.seconds if throughput.seconds else None,
        has_labels=has_labels,
        stopped=stopped,
    )


def _how_to_go_on(folder: Path) -> str:
    return (
        f"saved {folder}/last.ckpt; to go on: python main.py --config {folder}/hparams.yaml "
        f"--checkpoint_path {folder}/last.ckpt"
    )
