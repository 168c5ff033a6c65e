"""The end of a run whose loss or weights are no longer finite."""

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from clmr.errors import DivergedError

MAX_CLIPS_SHOWN = 8


class StopOnNaN(Callback):
    """Stop at NaN or infinity, before a checkpoint keeps it.

    Losses are looked at every `log_every_n_steps` and, with the weights, before each checkpoint is
    written; not at every step, since to look makes the host wait for the GPU.

    Args:
        last: Checkpoint of the run, which the message names if it is there.

    Raises:
        DivergedError: From the hooks, on all devices at the same step.
    """

    def __init__(self, last: Path) -> None:
        self.last = last
        self._seen: dict[int, tuple[Tensor, float]] = {}  # loss and learning rate by step

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Tensor, _: int
    ) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._seen[trainer.global_step - 1] = outputs["loss"].detach(), rate
        if trainer.global_step % trainer.log_every_n_steps == 0:
            self._check(trainer, weights=[])

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check(trainer, weights=list(checkpoint["state_dict"].values()))

    def _check(self, trainer: pl.Trainer, weights: list[Tensor]) -> None:
        bad = [step for step, (loss, _) in self._seen.items() if not math.isfinite(loss)]
        if not all(torch.isfinite(weight).all() for weight in weights):
            bad.append(trainer.global_step - 1)
        first = torch.tensor(min(bad, default=math.inf), device=trainer.strategy.root_device)
        step = trainer.strategy.reduce(first, reduce_op="min").item()
        if math.isfinite(step):
            raise DivergedError(self._message(trainer, int(step)))
        self._seen.clear()

    def _message(self, trainer: pl.Trainer, step: int) -> str:
        rate_now = trainer.optimizers[0].param_groups[0]["lr"]
        loss, rate = self._seen.get(step, (None, rate_now))
        found = "weights, or the loss on another device, are not finite"
        if loss is not None and not math.isfinite(loss):
            found = f"the loss is {float(loss)}"
        clips = trainer.datamodule.clips_at(step)
        shown = ", ".join(clips[:MAX_CLIPS_SHOWN])
        more = len(clips) - MAX_CLIPS_SHOWN
        kept = f"{self.last} is from before that. " if self.last.exists() else ""
        return (
            f"{found} at step {step}, at a learning rate of {rate:g}, on the clips {shown}"
            + (f" and {more} more" if more > 0 else "")
            + f". {kept}Start anew with a lower --learning_rate, or without these clips if the "
            "same ones are named again"
        )
