"""Optimizers and learning-rate schedules of pretraining, by name."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from clmr.errors import CheckpointError, ConfigError
from clmr.registry import lookup

TRUST = 0.001  # eta of You et al. 2017, arXiv:1708.03888; SimCLR has the same


def adam(model: nn.Module, learning_rate: float, weight_decay: float, momentum: float) -> Adam:
    """Adam with an L2 penalty on all parameters, biases and norms included, as CLMR trains."""
    return Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)


def adamw(model: nn.Module, learning_rate: float, weight_decay: float, momentum: float) -> AdamW:
    """Adam with decoupled decay (Loshchilov & Hutter 2019, arXiv:1711.05101) of weights only."""
    decayed, spared = weights_and_rest(model)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared}]
    return AdamW(groups, lr=learning_rate, weight_decay=0, fused=True)


def sgd(model: nn.Module, learning_rate: float, weight_decay: float, momentum: float) -> SGD:
    """SGD with momentum and an L2 penalty on all parameters."""
    return SGD(
        model.parameters(), learning_rate, momentum, weight_decay=weight_decay, fused=True
    )


def lars(model: nn.Module, learning_rate: float, weight_decay: float, momentum: float) -> Optimizer:
    """LARS (You et al. 2017, arXiv:1708.03888), which leaves biases and norms to plain SGD.

    A weight w with gradient g moves by rate * eta |w| / (|g| + decay |w|) * (g + decay w). SimCLR's
    code has |g + decay w| below the line, and its momentum has the rate in it.
    """
    from timm.optim import Lars  # here, as it takes a second and all of timm's networks

    adapted, spared = weights_and_rest(model)
    groups = [
        {"params": adapted, "weight_decay": weight_decay, "always_adapt": True},
        {"params": spared},
    ]
    return Lars(groups, lr=learning_rate, momentum=momentum, weight_decay=0, trust_coeff=TRUST)


OPTIMIZERS: dict[str, Callable[[nn.Module, float, float, float], Optimizer]] = {
    "adam": adam,
    "adamw": adamw,
    "sgd": sgd,
    "lars": lars,
}


def weights_and_rest(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weights of convolutions and linear layers; biases, norms and all else of one dimension.

    The latter are neither decayed nor adapted (Grill et al. 2020, arXiv:2006.07733; SimCLR's code).
    """
    weights = [p for p in model.parameters() if p.ndim > 1]
    return weights, [p for p in model.parameters() if p.ndim <= 1]


def constant(part: float) -> float:
    return 1.0


def cosine(part: float) -> float:
    """From 1 to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * part))


# From the part of the run after warm-up that is done, 0 to 1, to the part of the learning rate.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "cosine": cosine,
}


class Schedule(LRScheduler):
    """The learning rate by steps: a linear rise from 0, then one of `SCHEDULES`.

    As SimCLR has it: the first step of a warm-up has rate 0, and cosine reaches 0 after the last.

    Args:
        optimizer: Its learning rates are those at the end of the warm-up.
        name: One of `SCHEDULES`.
        warmup_steps: Optimizer steps of the rise.
        n_steps: Optimizer steps of the whole run.

    Raises:
        ConfigError: There is no such schedule, or the warm-up leaves it no step.
    """

    def __init__(self, optimizer: Optimizer, name: str, warmup_steps: int, n_steps: int) -> None:
        lookup("schedule", SCHEDULES, name)
        self.name, self.warmup_steps, self.n_steps = name, warmup_steps, n_steps
        if self.spans_the_run and warmup_steps >= n_steps:
            raise ConfigError(
                f"--warmup_steps {warmup_steps} leaves no step of the run's {n_steps} to "
                f"--schedule {name}: give fewer, or a higher --max_steps or --max_epochs"
            )
        super().__init__(optimizer)

    @property
    def spans_the_run(self) -> bool:
        """Whether the rates depend on where the run ends."""
        return SCHEDULES[self.name](1.0) < 1.0

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied with, of step 0, 1, ..."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        part = (step - self.warmup_steps) / max(1, self.n_steps - self.warmup_steps)
        return SCHEDULES[self.name](min(part, 1.0))

    def get_lr(self) -> list[float]:
        return [lr * self.factor(self.last_epoch) for lr in self.base_lrs]  # torch's word for step

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a run was stopped.

        Raises:
            CheckpointError: It was to end at another step, so that its rates were others.
        """
        if self.spans_the_run and state_dict["n_steps"] != self.n_steps:
            raise CheckpointError(
                f"--schedule {self.name} spans the whole run: {state_dict['n_steps']} steps in the "
                f"checkpoint, {self.n_steps} now; give the --max_steps, --max_epochs and --gpus "
                f"that it had, or start anew without --checkpoint_path"
            )
        super().load_state_dict(state_dict | {"n_steps": self.n_steps})
