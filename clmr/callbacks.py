"""What is watched during training, and the way out by Ctrl-C or SIGTERM."""

import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from torch import Tensor
from tqdm import tqdm

from clmr.augmentations import drawn_for
from clmr.drawn import as_table
from clmr.errors import DivergedError, Terminated
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
        if trainer.global_step % trainer.log_every_n_steps == 0 or trainer.is_last_batch:
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


class EndOnInterrupt(Callback):
    """End training by Ctrl-C or SIGTERM between two steps, within a `with`.

    An exception out of the blue could leave half a step behind, or a lock of a logger's thread
    that nobody opens any more. A second Ctrl-C does not wait for the end of the step; a second
    SIGTERM does, as schedulers send it to a program and again to all of its processes.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self.signal: int | None = None  # which one ended training; known on all devices
        self._asked: int | None = None

    def __enter__(self) -> None:
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # others have no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Lightning has put its own over it, which ends training without a checkpoint, and with
        # several devices talks to the others in the middle of whatever they are doing.
        if signal.SIGTERM in self._before:
            signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, _: object) -> None:
        self._asked = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _answer(self, trainer: pl.Trainer, *_: object) -> None:
        # All devices at the same step: one that went on would wait for the others for ever. To ask
        # them makes each wait for its GPU, so it is not done at every step.
        if trainer.world_size > 1 and trainer.global_step % trainer.log_every_n_steps:
            return
        anyone = trainer.strategy.reduce_boolean_decision
        if anyone(self._asked is not None, all=False):
            terminated = anyone(self._asked == signal.SIGTERM, all=False)
            self.signal = signal.SIGTERM if terminated else signal.SIGINT
            raise KeyboardInterrupt

    on_train_batch_start = on_validation_batch_start = _answer

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.interrupted = isinstance(exception, KeyboardInterrupt)
        if isinstance(exception, KeyboardInterrupt | DivergedError):
            # All devices end at the same step, by themselves. Whoever watches over them for
            # Lightning would take the status of one for a crash, and kill this process.
            getattr(trainer.strategy.launcher, "procs", []).clear()

    def error(self, message: str) -> KeyboardInterrupt:
        """What to raise once training has ended: by its type it tells SIGTERM from Ctrl-C."""
        return Terminated(message) if self.signal == signal.SIGTERM else KeyboardInterrupt(message)


class SaveOnInterrupt(EndOnInterrupt):
    """Save `last.ckpt` as well.

    Args:
        path: Where to.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, KeyboardInterrupt):
            trainer.save_checkpoint(self.path)
        super().on_exception(trainer, module, exception)


class ProgressBar(TQDMProgressBar):
    """Lightning's bar without the version number, which is part of the run's folder."""

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
