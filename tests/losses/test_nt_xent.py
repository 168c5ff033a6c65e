"""NT-Xent against the paper's formula, SimCLR's own code, and several processes against one."""

import math
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from simclr.modules import NT_Xent
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from clmr.losses import LOSSES, NTXent, build_loss

WORLD_SIZES = (2, 3)
TEMPERATURE = 0.2


def paper_loss(z_i, z_j, temperature):
    """Algorithm 1 of Chen et al. 2020, arXiv:2002.05709, pair by pair in float64."""
    z = [row.double() for pair in zip(z_i, z_j, strict=True) for row in pair]
    n = len(z) // 2

    def similarity(a, b):
        return z[a] @ z[b] / (z[a].norm() * z[b].norm())

    def one(a, b):
        others = [similarity(a, k) / temperature for k in range(2 * n) if k != a]
        return -similarity(a, b) / temperature + torch.logsumexp(torch.stack(others), 0)

    return sum(one(2 * k, 2 * k + 1) + one(2 * k + 1, 2 * k) for k in range(n)) / (2 * n)


def projections(n_clips, n_dims=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z_i, z_j = torch.randn(2, n_clips, n_dims, generator=generator)
    return z_i, 0.7 * z_i + z_j  # views of one clip are alike


def with_gradients(loss, z_i, z_j):
    z_i, z_j = z_i.clone().requires_grad_(), z_j.clone().requires_grad_()
    value = loss(z_i, z_j)
    value.backward()
    return value.detach(), z_i.grad, z_j.grad


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3])
@pytest.mark.parametrize("n_clips", [1, 2, 5, 8])
def test_loss_and_gradient_are_those_of_the_papers_double_loop(n_clips, temperature):
    z_i, z_j = projections(n_clips)
    ours = with_gradients(NTXent(temperature), z_i, z_j)
    paper = with_gradients(lambda a, b: paper_loss(a, b, temperature), z_i, z_j)
    for found, expected in zip(ours, paper, strict=True):
        torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("n_clips", [2, 7])
def test_loss_and_gradient_are_those_of_simclr_in_one_process(n_clips, temperature):
    z_i, z_j = projections(n_clips)
    ours = with_gradients(NTXent(temperature), z_i, z_j)
    theirs = with_gradients(NT_Xent(n_clips, temperature, world_size=1), z_i, z_j)
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_two_orthogonal_clips_with_equal_views_have_the_loss_computed_by_hand():
    z = torch.eye(2)
    # Each row: its twin has similarity 1, the two views of the other clip 0.
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert NTXent(temperature=0.5)(z, z).item() == pytest.approx(expected, rel=1e-6)


def test_collapsed_projections_cannot_be_told_apart():
    z = torch.ones(6, 4)
    assert NTXent(0.5)(z, z).item() == pytest.approx(math.log(2 * 6 - 1), rel=1e-6)


def test_a_clip_without_others_has_no_loss_and_no_gradient():
    loss, *gradients = with_gradients(NTXent(0.5), *projections(1))
    assert loss.item() == 0
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)


def test_only_the_direction_of_a_projection_counts():
    z_i, z_j = projections(5)
    lengths = torch.tensor([[1e-3], [0.1], [1], [10], [1e3]])
    expected = NTXent(0.5)(z_i, z_j)
    torch.testing.assert_close(NTXent(0.5)(lengths * z_i, 7 * z_j), expected)


def test_the_order_of_clips_and_of_views_does_not_count():
    z_i, z_j = projections(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    expected = NTXent(0.5)(z_i, z_j)
    torch.testing.assert_close(NTXent(0.5)(z_j[order], z_i[order]), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_projections_are_compared_in_float32(dtype):
    # Squares of these are beyond float16, and a temperature of 0.05 shows the digits of bfloat16.
    z_i, z_j = (1000 * z.to(dtype) for z in projections(6))
    loss, grad_i, grad_j = with_gradients(NTXent(0.05), z_i, z_j)
    assert loss.dtype == torch.float32
    assert grad_i.dtype == grad_j.dtype == dtype
    expected = paper_loss(z_i, z_j, 0.05)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


def test_autocast_does_not_lower_the_precision():
    z_i, z_j = projections(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = NTXent(0.05)(z_i, z_j)
    torch.testing.assert_close(loss, NTXent(0.05)(z_i, z_j), rtol=1e-6, atol=0)


@pytest.mark.parametrize("temperature", [0, -0.5])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="above 0"):
        NTXent(temperature)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_when_followed_downhill(name):
    z_i, z_j = (z.requires_grad_() for z in projections(6))
    optimizer = torch.optim.SGD([z_i, z_j], lr=0.5)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = build_loss(LOSSES[name], 0.5)(z_i, z_j)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(after < before for before, after in pairwise(losses))


# Several processes. Each has its own clips and its own copy of a small projector, whose gradients
# DistributedDataParallel averages; together they must be one process with all clips.

CLIPS_EACH = 3
N_FEATURES = 8


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
    for world_size in WORLD_SIZES:
        if rank >= world_size:
            continue
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/{world_size}", rank=rank, world_size=world_size
        )
        network = DistributedDataParallel(projector())
        h = features(world_size)[:, rank].requires_grad_()
        z_i, z_j = network(h.flatten(0, 1)).chunk(2)
        loss = NTXent(TEMPERATURE)(z_i, z_j)
        loss.backward()
        result = {
            "loss": loss.detach(),
            "inputs": h.grad,
            "parameters": [p.grad for p in network.parameters()],
            "released": NT_Xent(CLIPS_EACH, TEMPERATURE, world_size)(z_i, z_j).detach(),
        }
        torch.save(result, f"{folder}/{world_size}-{rank}.pt")
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(one_of_several, args=(str(folder),), nprocs=max(WORLD_SIZES))
    return {
        size: [torch.load(folder / f"{size}-{rank}.pt") for rank in range(size)]
        for size in WORLD_SIZES
    }


def whole_batch(world_size):
    network, h = projector(), features(world_size).requires_grad_()
    z_i, z_j = network(h.flatten(0, 2)).chunk(2)  # [WB, D] each
    loss = NTXent(TEMPERATURE)(z_i, z_j)
    loss.backward()
    paper = paper_loss(z_i.detach(), z_j.detach(), TEMPERATURE)
    return loss.detach(), h.grad, [p.grad for p in network.parameters()], paper


def assert_same(found, expected):
    """Equal within 1e-6 of the largest value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_the_mean_loss_of_several_processes_is_the_loss_of_the_whole_batch(processes, world_size):
    mean = torch.stack([result["loss"] for result in processes[world_size]]).mean()
    loss, _, _, paper = whole_batch(world_size)
    assert_same(mean, loss)
    assert mean.item() == pytest.approx(paper.item(), rel=1e-5)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_the_averaged_parameter_gradient_is_that_of_the_whole_batch(processes, world_size):
    _, _, expected, _ = whole_batch(world_size)
    for result in processes[world_size]:
        for found, gradient in zip(result["parameters"], expected, strict=True):
            assert_same(found, gradient)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_the_input_gradients_of_several_processes_are_those_of_the_whole_batch(
    processes, world_size
):
    # Of the sum over processes, where the whole batch has the mean.
    found = torch.stack([result["inputs"] for result in processes[world_size]], dim=1) / world_size
    _, expected, _, _ = whole_batch(world_size)
    assert_same(found, expected)


def test_simclrs_own_loss_takes_wrong_pairs_in_two_processes(processes):
    # Why there is a loss of our own: theirs is right in one process only.
    loss, *_ = whole_batch(2)
    for result in processes[2]:
        assert abs(result["released"] - loss) > 0.01
