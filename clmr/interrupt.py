"""The way out of training by Ctrl-C or SIGTERM."""

import signal
import threading
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from clmr.errors import Terminated


class EndOnInterrupt(Callback):
    """End training by Ctrl-C or SIGTERM between two steps, within a `with`.

    An exception out of the blue could leave half a step behind, or a lock of a logger's thread
    that nobody opens any more. A second Ctrl-C does not wait for the end of the step, but among
    several devices, where it would leave the others waiting, and torchrun sends every one twice. A
    second SIGTERM always waits: schedulers send it to a program and again to all its processes.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self.signal: int | None = None  # which one ended training; known on all devices
        self._asked: int | None = None
        self._alone = True

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        # Lightning would put its own over it, which ends training without a checkpoint, and with
        # several devices talks to the others in the middle of whatever they are doing.
        trainer._signal_connector.register_signal_handlers = lambda: None
        self._alone = trainer.world_size == 1

    def __enter__(self) -> None:
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # others have no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        self._asked = number
        if number == signal.SIGINT and self._alone:
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
