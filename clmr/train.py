"""Pretrain an encoder by contrast."""

import logging
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateMonitor

from clmr.allocator import keep_freed_memory
from clmr.callbacks import (
    ProgressBar,
    SettingsLogger,
    ThroughputLogger,
    ViewsLogger,
)
from clmr.checkpoint import Checkpoint, read_checkpoint
from clmr.checkpoint_io import WholeCheckpoints
from clmr.config import Config
from clmr.curves import loggers
from clmr.datamodule import ContrastiveDataModule
from clmr.datasets import DATASETS
from clmr.device import allow_tf32, check_compiler, choose_precision
from clmr.earlier_run import check_resumable, checkpoint_to_resume, folder_of_run
from clmr.environment import device_names, note_environment
from clmr.errors import ConfigError
from clmr.finite import StopOnNaN
from clmr.interrupt import SaveOnInterrupt
from clmr.job import Job, SyncOnCpu, Team, choose_job, together
from clmr.modules import ContrastiveLearning
from clmr.preprocess import open_store
from clmr.probing import build_probes, check_probes
from clmr.registry import lookup
from clmr.resume import GoOnAtTheStep, MovableCheckpoint
from clmr.trained import Trained, how_to_go_on

DEFAULT_MAX_EPOCHS = 200

log = logging.getLogger(__name__)


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
    job = choose_job(config.accelerator, config.gpus, config.num_nodes)
    with together(job) as team:
        return _train(config, job, team)


def _train(config: Config, job: Job, team: Team) -> Trained | None:
    accelerator, n_devices = job.accelerator, job.world_size
    # Kept with the run as what it is, as a resumed run goes on in it on whatever device.
    config = replace(config, precision=choose_precision(config.precision, accelerator))
    allow_tf32(config.precision == "tf32")
    if config.compile:
        check_compiler(accelerator)
    if accelerator == "cpu":
        keep_freed_memory()
    # The first process chooses: folders change while the others look.
    found = team.first("checkpoint", lambda: str(checkpoint_to_resume(config) or ""))
    checkpoint = Path(found) if found else None
    before = read_checkpoint(checkpoint) if checkpoint else Checkpoint({}, {})
    folder = Path(team.first("folder", lambda: str(folder_of_run(config, checkpoint, before))))
    if checkpoint:
        check_resumable(config, checkpoint, before)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    module = ContrastiveLearning(config)
    _check_crop(config, module)
    dataset = lookup("dataset", DATASETS, config.dataset)(config.dataset_dir)
    check_probes(config, bool(dataset.tags))
    clips = team.after_first("clips", dataset.clips)  # which the demo plays first
    store = team.after_first("store", lambda: open_store(config, clips))
    data = ContrastiveDataModule(config, store, clips)
    data.check_enough_clips(n_devices)
    probes = build_probes(config, data, dataset.tags)

    last = MovableCheckpoint(folder, "last", enable_version_counter=False)
    best = MovableCheckpoint(folder, "best", monitor="Valid/loss", enable_version_counter=False)
    n_steps = config.save_every_n_steps
    within_epoch = MovableCheckpoint(
        folder, "last", every_n_train_steps=n_steps, enable_version_counter=False
    )
    throughput, interrupt = ThroughputLogger(), SaveOnInterrupt(folder / "last.ckpt")
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=job.n_devices,
        num_nodes=job.n_nodes,
        strategy="ddp" if n_devices > 1 else "auto",
        precision="32" if config.precision == "tf32" else config.precision,
        sync_batchnorm=accelerator == "gpu" and n_devices > 1,
        use_distributed_sampler=False,  # CropSampler gives every device its part
        max_epochs=_max_epochs(config),
        max_steps=config.max_steps or -1,
        logger=loggers(folder, before.step),
        callbacks=[
            SettingsLogger(config.to_dict()),
            LearningRateMonitor("step"),
            throughput,
            ViewsLogger(),
            ProgressBar(on_gpu=accelerator == "gpu"),
            interrupt,
            *probes,
            GoOnAtTheStep(),
            StopOnNaN(folder / "last.ckpt"),
            # First of all that save: what is saved after it holds the best loss so far.
            *([best] if data.can_validate(n_devices) else []),
            last,
            *([within_epoch] if n_steps else []),
        ],
        log_every_n_steps=config.log_every_n_steps,
        plugins=[
            WholeCheckpoints(),
            job.environment,
            *([SyncOnCpu()] if accelerator == "cpu" and n_devices > 1 else []),
        ],
        limit_val_batches=None if data.can_validate(n_devices) else 0,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    _introduce(config, data, trainer, folder)
    if trainer.is_global_zero:
        names = device_names(accelerator, job.n_devices)
        note_environment(
            folder, first_step=before.step, seed=config.seed, precision=config.precision,
            devices=names, world_size=trainer.world_size,
        )  # fmt: skip
    try:
        with interrupt:
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # how Lightning ends after Ctrl-C
        if not interrupt.interrupted:
            raise
        raise interrupt.error(how_to_go_on(folder)) from None
    finally:  # Lightning ends the reading processes of that loop only which it was in
        trainer.fit_loop.teardown()
    if not trainer.is_global_zero:
        return None
    stopped = probes[0].stopped if probes else ""
    return _summary(folder, trainer, best, throughput, bool(dataset.tags), stopped)


def _max_epochs(config: Config) -> int:
    if config.max_epochs is not None:
        return config.max_epochs
    return -1 if config.max_steps is not None else DEFAULT_MAX_EPOCHS


def _check_crop(config: Config, module: ContrastiveLearning) -> None:
    try:
        module.model.encoder.check_length(config.audio_length)
    except ValueError as error:
        raise ConfigError(f"--encoder {config.encoder}: {error}") from error


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
    best: MovableCheckpoint,
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
