"""Going on with a run exactly at its step, wherever its folder lies by now."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")  # of a ModelCheckpoint


class GoOnAtTheStep(Callback):
    """Let a resumed run take the step after those that its checkpoint has taken, and no other.

    Lightning's own account of where in an epoch a checkpoint was saved differs by the hook that
    saved it, and with `max_steps` it counts an epoch twice if that was the epoch's end. Only the
    number of steps is taken from it; the rest follows, as if every checkpoint had been saved
    when the batch of its next step was ready.
    """

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        trainer.datamodule.n_steps_before = step = checkpoint["global_step"]
        epoch, batch = divmod(step, trainer.datamodule.steps_in_epoch(trainer.world_size))
        loops = checkpoint["loops"]["fit_loop"]
        loops["epoch_progress"] = {
            "total": _counts(epoch, epoch + 1, epoch + 1),
            "current": _counts(epoch, epoch + 1, epoch + 1),
        }
        loops["epoch_loop.batch_progress"] = {
            "total": _counts(step, step + 1, step),
            "current": _counts(batch, batch + 1, batch),
            "is_last_batch": False,
        }
        loops["epoch_loop.val_loop.batch_progress"] = {
            "total": _counts(0, 0, 0), "current": _counts(0, 0, 0), "is_last_batch": False,
        }  # fmt: skip
        # The abscissa of the curves; Lightning adds one for the batch that was ready.
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = step - 1


def _counts(done: int, ready: int, started: int) -> dict[str, int]:
    return {"ready": ready, "started": started, "processed": done, "completed": done}


class MovableCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that keeps the names of its files without their folder.

    So a run goes on with its best loss so far where its folder was moved or copied to, and a run
    that branches off from it into a folder without these files begins with none.
    """

    def state_dict(self) -> dict[str, Any]:
        return _in_folder("", super().state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = _in_folder(self.dirpath, state)
        if Path(state["best_model_path"]).is_file():
            super().load_state_dict(state)


def _in_folder(folder: str, state: dict[str, Any]) -> dict[str, Any]:
    def moved(path: str) -> str:
        return str(Path(folder, Path(path).name)) if path else ""

    paths = {name: moved(state[name]) for name in PATHS}
    best = {moved(path): score for path, score in state["best_k_models"].items()}
    return state | paths | {"dirpath": folder, "best_k_models": best}
