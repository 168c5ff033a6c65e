"""Probes during pretraining: curves of what the representation is worth, and an early end."""

import logging
from dataclasses import asdict, replace
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from tqdm.contrib.logging import logging_redirect_tqdm

from clmr.config import Config
from clmr.datamodule import ContrastiveDataModule
from clmr.errors import ConfigError
from clmr.probing.collapse import WHAT_HELPS, what_is_dead
from clmr.probing.early_stop import EarlyStop
from clmr.probing.probe_set import ProbeSet

# BatchNorm's running statistics, by which evaluation mode goes, are then 99 % of what was seen;
# before, any encoder's features look alike.
SETTLED_STEPS = 44

log = logging.getLogger(__name__)


class Probes(Callback):
    """Probe the network before its first step, every so many epochs, and at the end of the run.

    The first device measures, and the others wait for its figures: all take the same decision.
    Nothing that training goes on from is touched, so that its weights are those without probes.

    Args:
        probe_set: What is measured, and on what.
        every: Epochs between two probes.
        early_stop: What may end the run; the probes before the first step, and at an end that is
            no whole number of `every` epochs, do not count.
    """

    def __init__(self, probe_set: ProbeSet, every: int, early_stop: EarlyStop | None) -> None:
        self.probe_set, self.every, self.early_stop = probe_set, every, early_stop
        self.stopped = ""  # why, if it has ended the run
        self._probed_at = -1  # step of the last probe that counts

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            with logging_redirect_tqdm():
                self._introduce()
        self._probe_if_due(trainer, module)  # also where a run was stopped before it could
        self._stop_if_over(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # The first device alone has a progress bar, which may wait in this hook for the others'
        # part of the epoch's losses. To ask for these here lets all devices meet there first.
        _ = trainer.callback_metrics
        self._probe_if_due(trainer, module)
        self._stop_if_over(trainer)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._probed_at != trainer.global_step:
            self._probe(trainer, module)

    def state_dict(self) -> dict[str, Any]:
        state = {"probed_at": self._probed_at}
        return state | (self._watched() | asdict(self.early_stop) if self.early_stop else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._probed_at = state["probed_at"]
        # Values of another curve, or of other clips, are not to be compared.
        if self.early_stop and self._watched().items() <= state.items():
            seen = {name: state[name] for name in ("best", "best_step", "n_since")}
            self.early_stop = replace(self.early_stop, **seen)

    def _probe_if_due(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        step = trainer.global_step
        between = self.every * trainer.datamodule.steps_in_epoch(trainer.world_size)
        if step % between or self._probed_at == step:
            return
        figures = self._probe(trainer, module)
        self._probed_at = step
        if step and self.early_stop:
            self.early_stop.see(step, figures.get(self.early_stop.curve))

    def _probe(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        figures = self.probe_set.measure(module) if trainer.is_global_zero else {}
        figures = trainer.strategy.broadcast(figures)
        if trainer.is_global_zero:
            curves = {f"Probe/{name}": value for name, value in figures.items()}
            for logger in trainer.loggers:
                logger.log_metrics(curves, trainer.global_step)
            with logging_redirect_tqdm():
                self._say(trainer, module, figures)
        return figures

    def _watched(self) -> dict[str, Any]:
        return {"curve": self.early_stop.curve, "n_clips": len(self.probe_set.places.clips)}

    def _stop_if_over(self, trainer: pl.Trainer) -> None:
        if self.early_stop and self.early_stop.is_over:
            trainer.should_stop = True
            self.stopped = (
                f"{self.early_stop}; to go on: a larger --early_stopping_patience, or "
                "--early_stopping never"
            )

    def _introduce(self) -> None:
        probes = self.probe_set
        scores = f"kNN and a linear probe on {len(probes.tags)} of {probes.n_all_tags} tags"
        log.info(
            "probes    every %d epochs, of %d train and %d valid clips; %s",
            self.every, probes.n_train, probes.n_valid,
            scores if probes.tags else f"no kNN and no linear probe: {probes.why_no_scores}",
        )  # fmt: skip

    def _say(
        self, trainer: pl.Trainer, module: pl.LightningModule, figures: dict[str, float]
    ) -> None:
        step = trainer.global_step
        epoch = step / trainer.datamodule.steps_in_epoch(trainer.world_size)
        said = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        log.info("probe     epoch %.4g, step %d: %s", epoch, step, said or "not finite")
        found = what_is_dead(figures, self.probe_set.most_rank(module))
        if found and step >= SETTLED_STEPS:
            log.warning("the run looks dead at step %d: %s; %s", step, found, WHAT_HELPS)


def check_probes(config: Config, has_tags: bool) -> None:
    """Refuse to watch a curve that this run will not have, before anything is read.

    Raises:
        ConfigError: With what to give instead.
    """
    if config.early_stopping == "never":
        return
    if config.probe_every is None:
        raise ConfigError(
            f"--early_stopping {config.early_stopping} watches the probes of a run, and this one "
            "has none: give --probe_every as well"
        )
    if config.early_stopping.endswith("_auc") and not has_tags:
        raise _no_such_curve(config, f"--dataset {config.dataset} has no labels")


def build_probes(
    config: Config, data: ContrastiveDataModule, tags: tuple[str, ...]
) -> list[Probes]:
    """The probes that the settings ask for: one, or none.

    Raises:
        ConfigError: The curve to watch cannot be computed on this dataset.
    """
    check_probes(config, bool(tags))
    if config.probe_every is None:
        return []
    probe_set, curve = ProbeSet(data, tags), config.early_stopping
    if curve == "never":
        return [Probes(probe_set, config.probe_every, None)]
    if curve not in probe_set.curves:
        raise _no_such_curve(config, probe_set.why_no_scores)
    stop = EarlyStop(curve, config.early_stopping_patience)
    return [Probes(probe_set, config.probe_every, stop)]


def _no_such_curve(config: Config, why: str) -> ConfigError:
    return ConfigError(
        f"--early_stopping {config.early_stopping}: there will be no such curve, as {why}; give "
        "effective_rank or uniformity, which need no labels"
    )
