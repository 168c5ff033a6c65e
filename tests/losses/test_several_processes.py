"""Every loss in two and three processes against one process with all clips.

Each process has its own clips and its own copy of a small projector, whose gradients
DistributedDataParallel averages; together they must be one process with all clips.
"""

import pytest
import torch
import torch.distributed as dist
from projections import FORMS, TEMPERATURE, assert_close, paper_pairs
from simclr.modules import NT_Xent
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from clmr.losses import strips

WORLD_SIZES = (2, 3)
CLIPS_EACH = 3
N_FEATURES = 8
EVERY_CASE = [(form, size) for form in FORMS for size in WORLD_SIZES]


def features(world_size):
    """Features of both views of all clips, [2, W, B, F]."""
    generator = torch.Generator().manual_seed(world_size)
    h_i, noise = torch.randn(2, world_size, CLIPS_EACH, N_FEATURES, generator=generator)
    return torch.stack([h_i, h_i + 0.5 * noise])


def projector():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(N_FEATURES, N_FEATURES, bias=False),
        nn.ReLU(),
        nn.Linear(N_FEATURES, 4, bias=False),
    )


def one_of_several(rank, folder):
    torch.set_num_threads(1)
    strips.STRIP = 4  # several, and a shorter one at the end
    for size in WORLD_SIZES:
        if rank >= size:
            continue
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/{size}", rank=rank, world_size=size
        )
        results = {form: step(FORMS[form](), size, rank) for form in FORMS}
        results["simclr"] = step(NT_Xent(CLIPS_EACH, TEMPERATURE, size), size, rank)
        torch.save(results, f"{folder}/{size}-{rank}.pt")
        dist.destroy_process_group()


def step(loss, world_size, rank):
    """Loss and gradients of one process."""
    network = DistributedDataParallel(projector())
    h = features(world_size)[:, rank].requires_grad_()
    value = loss(*network(h.flatten(0, 1)).chunk(2))
    value.backward()
    parameters = [parameter.grad for parameter in network.parameters()]
    return {"loss": value.detach(), "inputs": h.grad, "parameters": parameters}


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(one_of_several, args=(str(folder),), nprocs=max(WORLD_SIZES))
    return {
        size: [torch.load(folder / f"{size}-{rank}.pt") for rank in range(size)]
        for size in WORLD_SIZES
    }


def whole_batch(form, world_size):
    network, h = projector(), features(world_size).requires_grad_()
    z_i, z_j = network(h.flatten(0, 2)).chunk(2)  # [WB, D] each
    loss = FORMS[form]()(z_i, z_j)
    loss.backward()
    parameters = [parameter.grad for parameter in network.parameters()]
    return {"loss": loss.detach(), "inputs": h.grad, "parameters": parameters, "z": (z_i, z_j)}


@pytest.mark.parametrize(("form", "size"), EVERY_CASE)
def test_the_mean_loss_of_several_processes_is_the_loss_of_the_whole_batch(processes, form, size):
    mean = torch.stack([result[form]["loss"] for result in processes[size]]).mean()
    assert_close([mean], [whole_batch(form, size)["loss"]], 1e-6)


@pytest.mark.parametrize(("form", "size"), EVERY_CASE)
def test_the_averaged_parameter_gradient_is_that_of_the_whole_batch(processes, form, size):
    expected = whole_batch(form, size)["parameters"]
    for result in processes[size]:
        assert_close(result[form]["parameters"], expected, 2e-6)


@pytest.mark.parametrize(("form", "size"), EVERY_CASE)
def test_the_input_gradients_of_several_processes_are_those_of_the_whole_batch(
    processes, form, size
):
    # Of the sum over processes, where the whole batch has the mean.
    inputs = [result[form]["inputs"] for result in processes[size]]
    found = torch.stack(inputs, dim=1) / size
    assert_close([found], [whole_batch(form, size)["inputs"]], 2e-6)


@pytest.mark.parametrize("size", WORLD_SIZES)
@pytest.mark.parametrize("name", ["nt_xent", "dcl"])
def test_the_mean_loss_of_several_processes_is_that_of_the_paper(processes, name, size):
    mean = torch.stack([result[name]["loss"] for result in processes[size]]).mean()
    z = [z.detach().double().numpy() for z in whole_batch(name, size)["z"]]
    expected = paper_pairs(*z, TEMPERATURE, decoupled=name == "dcl")
    assert mean.item() == pytest.approx(expected, rel=1e-5)


def test_simclrs_own_loss_takes_wrong_pairs_in_two_processes(processes):
    # Why there is a loss of our own: theirs is right in one process only.
    loss = whole_batch("nt_xent", 2)["loss"]
    for result in processes[2]:
        assert abs(result["simclr"]["loss"] - loss) > 0.01
