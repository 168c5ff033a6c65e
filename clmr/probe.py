"""Train a head on features, and score it."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from clmr.callbacks import EpochBar
from clmr.checkpoint import load_weights, read_checkpoint
from clmr.checkpoint_io import WholeCheckpoints
from clmr.config import Config
from clmr.curves import loggers
from clmr.errors import CheckpointError
from clmr.features import Features
from clmr.interrupt import EndOnInterrupt
from clmr.metrics import TagScores, average_per_clip, tag_scores
from clmr.modules import LinearEvaluation

PATIENCE = 10  # epochs without a better validation loss, as CLMR's early stopping
HEAD_FILE = "head"  # .ckpt


def load_head(head: LinearEvaluation, path: str, tags: tuple[str, ...]) -> None:
    """Load the weights of a head that was trained before.

    Raises:
        CheckpointError: It is no such head, or of other tags.
    """
    checkpoint = read_checkpoint(path)
    trained_on = checkpoint.settings.get("tags", list(tags))
    if trained_on != list(tags):
        raise CheckpointError(
            f"{path} was trained on other tags ({', '.join(trained_on[:5])}, ...) than the dataset "
            f"has ({', '.join(tags[:5])}, ...): give a head of this dataset, or train one"
        )
    load_weights(head, checkpoint.weights, path)


def fit_head(
    config: Config,
    head: LinearEvaluation,
    features: dict[str, Features],
    accelerator: str,
    folder: Path,
) -> None:
    """Train the head and leave it as it was at its best validation loss."""
    if config.finetuner_standardize:
        head.standardize(features["train"].h)
    best = ModelCheckpoint(folder, HEAD_FILE, monitor="Valid/loss", enable_version_counter=False)
    interrupt = EndOnInterrupt()
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=config.finetuner_max_epochs,
        logger=loggers(folder),
        callbacks=[best, EarlyStopping("Valid/loss", patience=PATIENCE), EpochBar(), interrupt],
        enable_progress_bar=False,
        plugins=[WholeCheckpoints()],
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    train = _batches(features["train"], config.finetuner_batch_size, shuffle=True)
    valid = _batches(features["valid"], config.finetuner_batch_size, shuffle=False)
    try:
        with interrupt:
            trainer.fit(head, train, valid)
    except SystemExit:  # how Lightning ends after Ctrl-C
        if interrupt.interrupted:
            raise interrupt.error("nothing is scored; run the same command again") from None
        raise
    load_weights(head, read_checkpoint(best.best_model_path).weights, best.best_model_path)


def _batches(features: Features, batch_size: int, shuffle: bool) -> DataLoader:
    """Windows with the labels of their clips: float32 `[B, F]`, uint8 `[B, C]`."""
    labels = torch.from_numpy(features.labels[features.clip_of_window])
    windows = TensorDataset(features.h, labels)
    order = RandomSampler(windows) if shuffle else SequentialSampler(windows)
    sampler = BatchSampler(order, batch_size, drop_last=False)
    return DataLoader(windows, sampler=sampler, batch_size=None)


@torch.inference_mode()
def score(head: LinearEvaluation, features: Features, tags: tuple[str, ...]) -> TagScores:
    """Score a split: mean over a clip's windows of the sigmoid, then metrics over the clips."""
    scores = head.cpu().eval()(features.h).sigmoid().numpy().astype(np.float64)  # [K, C]
    per_clip = average_per_clip(scores, features.clip_of_window, len(features.labels))
    return tag_scores(features.labels, per_clip, tags)
