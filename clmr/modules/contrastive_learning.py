"""Pretraining: two augmented views of a clip find each other among all others."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from simclr import SimCLR
from torch import Tensor

from clmr.audio import pcm_to_float
from clmr.augmentations import AUGMENTATIONS, Chain, Draw, build_chain
from clmr.config import Config
from clmr.encoders import ENCODERS
from clmr.errors import ConfigError
from clmr.losses import LOSSES, build_loss
from clmr.modules.gradient_cache import project_in_chunks
from clmr.optim import OPTIMIZERS, SCHEDULES, Schedule
from clmr.registry import lookup

TRAIN, VALID, PROBE = 0, 1, 2  # streams of augmentation draws


class ContrastiveLearning(pl.LightningModule):
    """SimCLR on waveforms (CLMR: Spijkervet & Burgoyne 2021, arXiv:2103.09410).

    What a step draws for its augmentations is a function of seed, device and step alone, so that
    devices differ, a resumed run goes on as it would have, and validation is always the same.

    Args:
        config: Settings.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.save_hyperparameters(config.to_dict())
        self.config = config
        encoder = lookup("encoder", ENCODERS, config.encoder)()
        self.model = SimCLR(encoder, config.projection_dim, encoder.n_features)
        self.loss = build_loss(lookup("loss", LOSSES, config.loss), config.temperature)
        self.build_optimizer = lookup("optimizer", OPTIMIZERS, config.optimizer)
        lookup("schedule", SCHEDULES, config.schedule)  # before there is a folder with a run
        self.generator = torch.Generator()
        chain = chain_of(config, self.generator)  # those of `reference` have the same limits
        self.augment = chain if config.augmentations == "clmr" else Chain({})

    def forward(self, x: Tensor) -> Tensor:
        """Encode: float `[B, 1, T]` -> h `[B, F]`."""
        return self.model.encoder(x)

    def draw(self, n_clips: int, stream: int, step: int) -> dict[str, Draw]:
        """Draw the augmentations of a batch: rows 0 to B - 1 are its views i, the others j.

        Args:
            n_clips: Clips B in the batch.
            stream: `TRAIN`, `VALID` or `PROBE`.
            step: Number of the step in its stream.
        """
        seed = np.random.SeedSequence((self.config.seed, self.global_rank, stream, step))
        self.generator.manual_seed(int(seed.generate_state(1)[0]))
        return self.augment.draw(2 * n_clips)

    def views(self, crops: Tensor, stream: int, step: int) -> tuple[Tensor, Tensor]:
        """Make the two augmented views of a batch.

        Args:
            crops: Pairs of crops: int16 of the store, or float where they were augmented already.
            stream: `TRAIN`, `VALID` or `PROBE`.
            step: Number of the step in its stream.

        Shape:
            int16 or float32 `[B, 2, T]` -> float32 `[B, 1, T]`, float32 `[B, 1, T]`.
        """
        x = crops if crops.is_floating_point() else pcm_to_float(crops)  # [B, 2, T]
        x = x.transpose(0, 1).reshape(2 * len(x), 1, -1)  # [2B, 1, T]: all i, then all j views
        x_i, x_j = self.augment.apply(x, self.draw(len(crops), stream, step)).chunk(2)
        return x_i, x_j

    def loss_of(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        """The loss of two views of each clip: float `[B, 1, T]`, float `[B, 1, T]` -> `[]`."""
        chunk = self.config.grad_cache_chunk or len(x_i)
        if chunk < len(x_i):
            return self.loss(*project_in_chunks(self.model, x_i, x_j, chunk))
        _, _, z_i, z_j = self.model(x_i, x_j)
        return self.loss(z_i, z_j)

    def on_fit_start(self) -> None:
        if self.config.compile:  # in place, so that names of weights stay
            self.model.encoder.compile(dynamic=False)

    def training_step(self, crops: Tensor, batch_idx: int) -> Tensor:
        loss = self._step(crops, TRAIN, self.global_step)
        self.log("Train/loss", loss, on_step=True, on_epoch=True, sync_dist=True, prog_bar=True)
        return loss

    def validation_step(self, crops: Tensor, batch_idx: int) -> Tensor:
        loss = self._step(crops, VALID, batch_idx)
        self.log("Valid/loss", loss, on_epoch=True, sync_dist=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        c = self.config
        optimizer = self.build_optimizer(self, c.learning_rate, c.weight_decay, c.momentum)
        n_steps = self.trainer.estimated_stepping_batches  # to --max_steps or --max_epochs
        schedule = Schedule(optimizer, c.schedule, c.warmup_steps, n_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _step(self, crops: Tensor, stream: int, step: int) -> Tensor:
        return self.loss_of(*self.views(crops, stream, step))


def chain_of(config: Config, generator: torch.Generator) -> Chain:
    """The chain of augmentations that the settings ask for.

    Raises:
        ConfigError: One of them does not do at the sample rate.
    """
    try:
        return build_chain(
            AUGMENTATIONS, config.transforms, config.sample_rate, generator, config.augment_chunk
        )
    except ValueError as error:
        name = str(error).split(":")[0]
        raise ConfigError(
            f"--transforms_{error} at --sample_rate {config.sample_rate}; give "
            f"--transforms_{name} 0, or a higher sample rate"
        ) from error
