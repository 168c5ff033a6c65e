"""Optimizers and schedules, against their papers' formulas and torch's own."""

import copy
import math

import pytest
import torch
from simclr import SimCLR
from torch import nn

from clmr.encoders import SampleCNN
from clmr.errors import CheckpointError, ConfigError
from clmr.optim import OPTIMIZERS, SCHEDULES, Schedule

# The parameters of SampleCNN and SimCLR's projector that decay and LARS's adaptation are for, by
# hand from Lee et al. 2017: eleven convolutions, and the projector's two matrices without bias.
WEIGHTS = {f"encoder.sequential.{layer}.0.weight" for layer in range(11)} | {
    "projector.0.weight",
    "projector.2.weight",
}
BIASES_AND_NORMS = {
    f"encoder.sequential.{layer}.{part}"
    for layer in range(11)
    for part in ("0.bias", "1.weight", "1.bias")
}


class Line(nn.Module):
    """One weight [1, 2] and one bias [1], and gradients to go with them."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))  # norm 5
        self.bias = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
        self.set_gradients()

    def set_gradients(self):
        self.weight.grad = torch.tensor([[0.6, 0.8]], dtype=torch.float64)  # norm 1
        self.bias.grad = torch.tensor([0.5], dtype=torch.float64)


def stepped(name, n_steps=1, weight_decay=0.1, momentum=0.9, learning_rate=2.0):
    """The weight and the bias after steps with the same gradients."""
    line = Line()
    optimizer = OPTIMIZERS[name](line, learning_rate, weight_decay, momentum)
    for _ in range(n_steps):
        line.set_gradients()
        optimizer.step()
    return [*line.weight[0].tolist(), *line.bias.tolist()]


# Optimizers.


def test_weights_and_the_rest_are_the_list_of_this_test():
    names = {name for name, _ in SimCLR(SampleCNN(), 64, 512).named_parameters()}
    assert names == WEIGHTS | BIASES_AND_NORMS


@pytest.mark.parametrize("name", ["adamw", "lars"])
def test_biases_and_norms_are_neither_decayed_nor_adapted(name):
    model = SimCLR(SampleCNN(), 64, 512)
    name_of = {p: name for name, p in model.named_parameters()}
    optimizer = OPTIMIZERS[name](model, 0.1, 0.045, 0.9)
    decay = {name_of[p]: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay == dict.fromkeys(WEIGHTS, 0.045) | dict.fromkeys(BIASES_AND_NORMS, 0)
    if name == "lars":
        adapted = [g["always_adapt"] for g in optimizer.param_groups]
        assert adapted == [True, False]


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_adam_and_sgd_decay_everything_as_clmr_does(name):
    (group,) = OPTIMIZERS[name](SimCLR(SampleCNN(), 64, 512), 0.1, 0.045, 0.9).param_groups
    assert len(group["params"]) == len(WEIGHTS | BIASES_AND_NORMS)
    assert group["weight_decay"] == 0.045


TORCHS_OWN = {
    "adam": lambda model: [torch.optim.Adam(model.parameters(), 0.01, weight_decay=0.3)],
    "sgd": lambda model: [torch.optim.SGD(model.parameters(), 0.01, 0.7, weight_decay=0.3)],
    "adamw": lambda model: [
        torch.optim.AdamW([model[0].weight], 0.01, weight_decay=0.3),
        torch.optim.AdamW([model[0].bias, *model[1].parameters()], 0.01, weight_decay=0.0),
    ],
}


@pytest.mark.parametrize("name", TORCHS_OWN)
def test_five_steps_are_those_of_torchs_own_optimizer(name):
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    theirs = copy.deepcopy(ours)
    optimizers = [OPTIMIZERS[name](ours, 0.01, 0.3, 0.7)], TORCHS_OWN[name](theirs)
    for _ in range(5):
        ours.zero_grad()
        (ours(torch.randn(8, 4)) ** 3).mean().backward()
        # The bias before a norm has a gradient of rounding alone, which Adam blows up.
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            b.grad = a.grad.clone()
        for stepper in [*optimizers[0], *optimizers[1]]:
            stepper.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


# You et al. 2017, algorithm 1, with eta 0.001: weight [3, 4] and gradient [0.6, 0.8] have norms 5
# and 1, so that the local rate is 0.001 * 5 / (1 + decay * 5). The bias moves by rate * 0.5.
def test_the_first_step_of_lars_is_that_of_the_paper():
    # Decay 0.1: 2 * 0.005 / 1.5 * ([0.6, 0.8] + 0.1 * [3, 4]) = [0.006, 0.008].
    assert stepped("lars") == pytest.approx([2.994, 3.992, 1.0], rel=1e-9)


def test_lars_adapts_weights_that_do_not_decay():
    # 2 * 0.005 * [0.6, 0.8]
    assert stepped("lars", weight_decay=0) == pytest.approx([2.994, 3.992, 1.0], rel=1e-9)


def test_the_second_step_of_lars_adds_the_first_times_the_momentum():
    w = torch.tensor([2.994, 3.992], dtype=torch.float64)  # after the first
    g = torch.tensor([0.6, 0.8], dtype=torch.float64)
    local = 0.001 * w.norm() / (1 + 0.1 * w.norm())
    velocity = 0.9 * torch.tensor([0.006, 0.008]) + 2 * local * (g + 0.1 * w)
    expected = [*(w - velocity).tolist(), 1.0 - (0.9 * 1.0 + 1.0)]
    assert stepped("lars", 2) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("zero", ["weight", "grad"])
def test_lars_takes_a_weight_or_a_gradient_of_zeros_without_nan(zero):
    line = Line()
    (line.weight if zero == "weight" else line.weight.grad).data.zero_()
    OPTIMIZERS["lars"](line, 2.0, 0.0, 0.9).step()
    expected = [-1.2, -1.6] if zero == "weight" else [3, 4]  # a local rate of 1, or no move
    assert line.weight[0].tolist() == pytest.approx(expected)


def test_the_first_step_of_adamw_decays_apart_from_the_gradient():
    # Loshchilov & Hutter 2019: w - rate * (sign(g) + decay * w); the bias only by its sign.
    found = stepped("adamw", learning_rate=0.01)
    assert found == pytest.approx([3 - 0.01 * 1.3, 4 - 0.01 * 1.4, 1.99], rel=1e-9)


# Schedules.


def rates(name, warmup_steps, n_steps, n_taken, learning_rate=3.0):
    """The learning rate of step 0, 1, ... n_taken."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=learning_rate)
    schedule = Schedule(optimizer, name, warmup_steps, n_steps)
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(n_taken):
        optimizer.step()
        schedule.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0),
        (1, 0.75),  # a quarter of 3
        (3, 2.25),
        (4, 3),  # the end of the warm-up
        (8, 1.5),  # half of what is left
        (10, 1.5 * (1 - math.sqrt(0.5))),  # three quarters: (1 + cos 135 degrees) / 2
        (11, 1.5 * (1 - math.sqrt(2 + math.sqrt(2)) / 2)),  # the last: cos 157.5 degrees
        (12, 0),
        (13, 0),
    ],
)
def test_cosine_rises_linearly_and_falls_by_half_a_cosine_to_0_at_the_end(step, expected):
    assert rates("cosine", 4, 12, 13)[step] == pytest.approx(expected, abs=1e-12)


def test_without_warmup_cosine_is_torchs_own():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
    expected = [3.0]
    for _ in range(9):
        optimizer.step()
        theirs.step()
        expected.append(optimizer.param_groups[0]["lr"])
    assert rates("cosine", 0, 9, 9) == pytest.approx(expected, abs=1e-12)


def test_constant_rises_linearly_and_stays_however_long_the_run():
    assert rates("constant", 3, 5, 6) == pytest.approx([0, 1, 2, 3, 3, 3, 3])
    assert rates("constant", 3, 2, 4) == pytest.approx([0, 1, 2, 3, 3])
    assert rates("constant", 0, 5, 2) == [3, 3, 3]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_begins_at_the_learning_rate_and_never_exceeds_it(name):
    found = rates(name, 0, 20, 20)
    assert found[0] == max(found) == 3.0
    assert min(found) >= 0


def test_a_schedule_that_was_saved_and_restored_goes_on_as_it_would_have():
    whole = rates("cosine", 2, 8, 8)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3.0)
    first = Schedule(optimizer, "cosine", 2, 8)
    for _ in range(3):
        optimizer.step()
        first.step()
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3.0)
    second = Schedule(other, "cosine", 2, 8)
    second.load_state_dict(first.state_dict())
    other.step()
    second.step()
    assert other.param_groups[0]["lr"] == whole[4]


def test_a_cosine_that_was_to_end_elsewhere_is_refused_and_a_constant_rate_is_not():
    def optimizer():
        return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3.0)

    saved = Schedule(optimizer(), "cosine", 2, 8).state_dict()
    with pytest.raises(CheckpointError, match="8 steps in the checkpoint, 9 now; give the --max_s"):
        Schedule(optimizer(), "cosine", 2, 9).load_state_dict(saved)
    longer = Schedule(optimizer(), "constant", 2, 9)
    longer.load_state_dict(Schedule(optimizer(), "constant", 2, 8).state_dict())
    assert longer.n_steps == 9


def test_a_warmup_that_leaves_cosine_no_step_is_refused():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3.0)
    with pytest.raises(ConfigError, match="--warmup_steps 5 leaves no step of the run's 5"):
        Schedule(optimizer, "cosine", 5, 5)
    with pytest.raises(ConfigError, match=r"unknown schedule 'cosin' \(did you mean 'cosine'"):
        Schedule(optimizer, "cosin", 0, 5)
