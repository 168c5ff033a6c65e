"""What is watched during training."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from torch import Tensor
from tqdm import tqdm

from clmr.augmentations import drawn_for
from clmr.drawn import as_table
from clmr.modules.contrastive_learning import TRAIN


class SettingsLogger(Callback):
    """Show the settings of the run as a table, under TEXT.

    Args:
        settings: Values by name.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        rows = [f"| {name} | {value} |" for name, value in settings.items()]
        self.table = "\n".join(["| setting | value |", "|---|---|", *rows])

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            trainer.logger.experiment.add_text("settings", self.table, trainer.global_step)


class ThroughputLogger(Callback):
    """Log clips a second, over all devices, since the point before on the curve."""

    def __init__(self) -> None:
        self.n_clips, self.seconds = 0, 0.0  # of all steps that were logged
        self._restart()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._restart()  # a run that is resumed within an epoch does not start that epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._restart()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Tensor, _: int
    ) -> None:
        self._n_clips_since += len(batch) * trainer.world_size
        # The last batch as well: after it comes validation, whose time is not training's.
        is_last = trainer.is_last_batch or trainer.global_step == trainer.max_steps
        if trainer.global_step % trainer.log_every_n_steps == 0 or is_last:
            self._log(trainer)

    def _log(self, trainer: pl.Trainer) -> None:
        seconds = time.perf_counter() - self._since
        self.n_clips, self.seconds = self.n_clips + self._n_clips_since, self.seconds + seconds
        for logger in trainer.loggers:  # at the step that was taken, as the loss is
            logger.log_metrics(
                {"Train/clips_per_second": self._n_clips_since / seconds}, trainer.global_step - 1
            )
        self._restart()

    def _restart(self) -> None:
        self._since, self._n_clips_since = time.perf_counter(), 0


class ViewsLogger(Callback):
    """Log the two augmented views of the first clip of each epoch, as the step will see them.

    Beside each, under TEXT, is what was drawn for it.
    """

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Tensor, batch_idx: int
    ) -> None:
        if batch_idx or not trainer.is_global_zero:
            return
        events, step = trainer.logger.experiment, trainer.global_step
        x_i, x_j = module.views(batch, TRAIN, step)
        draws = module.draw(len(batch), TRAIN, step)
        for name, x, row in (("i", x_i, 0), ("j", x_j, len(batch))):
            x = x[0].float().cpu().clamp(-1, 1)
            events.add_audio(f"views/{name}", x, step, sample_rate=module.config.sample_rate)
            drawn = drawn_for(draws, row)
            said = as_table(drawn) if drawn else "crop only"
            if batch.is_floating_point():  # augmented already, where it was read
                said = "augmented by the reference chain, which does not tell what it drew"
            events.add_text(f"views/{name}", said, step)


class ProgressBar(TQDMProgressBar):
    """Lightning's bar without the version number, which is part of the run's folder.

    Args:
        on_gpu: Whether to show one step in ten only: to show the loss is to wait for the GPU.
    """

    def __init__(self, on_gpu: bool) -> None:
        super().__init__(refresh_rate=10 if on_gpu else 1)

    def get_metrics(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict:
        metrics = super().get_metrics(trainer, module)
        return {name: value for name, value in metrics.items() if name != "v_num"}


class EpochBar(Callback):
    """One bar for all epochs, for training whose epochs are too short for a bar each."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.bar = tqdm(desc="training the head", total=trainer.max_epochs, unit=" epochs")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.bar.set_postfix({k: f"{v:.4f}" for k, v in trainer.callback_metrics.items()}, False)
        self.bar.update()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.bar.close()
