"""Batch norm in two processes against torch's own on the batch of both."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from clmr.job.sync_batchnorm import SyncBatchNorm, SyncOnCpu

N_CHANNELS = 3
N_STEPS = 3


class OnPictures(nn.BatchNorm1d):
    """A batch norm that takes more dimensions than its name says."""

    def _check_input_dim(self, x):
        assert x.dim() == 4


CASES = {
    "features": (nn.BatchNorm1d(N_CHANNELS), (6, N_CHANNELS)),
    "sound": (nn.BatchNorm1d(N_CHANNELS), (4, N_CHANNELS, 11)),
    "a value each": (nn.BatchNorm1d(N_CHANNELS, eps=1), (2, N_CHANNELS, 1)),
    "pictures": (nn.BatchNorm2d(N_CHANNELS), (4, N_CHANNELS, 5, 7)),
    "volumes": (nn.BatchNorm3d(N_CHANNELS), (2, N_CHANNELS, 3, 2, 4)),
    "a subclass": (OnPictures(N_CHANNELS), (4, N_CHANNELS, 1, 11)),
    "the mean of all": (nn.BatchNorm1d(N_CHANNELS, momentum=None), (4, N_CHANNELS, 11)),
    "other numbers": (nn.BatchNorm1d(N_CHANNELS, eps=0.1, momentum=0.7), (4, N_CHANNELS, 11)),
    "half precision": (nn.BatchNorm1d(N_CHANNELS), (4, N_CHANNELS, 11)),
    "without weights": (nn.BatchNorm1d(N_CHANNELS, affine=False), (4, N_CHANNELS, 11)),
    "without statistics": (
        nn.BatchNorm1d(N_CHANNELS, track_running_stats=False),
        (4, N_CHANNELS, 11),
    ),
}


def work(layer, x):
    """A few steps, and what is to be equal of them; rows are in their place of the whole batch."""
    if layer.affine:
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(0.5, 2, N_CHANNELS))
            layer.bias.copy_(torch.linspace(-1, 1, N_CHANNELS))
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    of_channels = torch.arange(1, N_CHANNELS + 1).view(-1, *[1] * (x.dim() - 2))
    for step in range(N_STEPS):
        y = layer(x * (step + 1) + step)
        (of_channels * y.sin()).sum().backward()
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
    rows = [y.detach(), x.grad]
    if layer.track_running_stats:
        rows.append(layer.eval()(x).detach())
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    return {"rows": rows, "gradients": gradients, "state": state}


def whole_batch(name, shape):
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 5
    x = x.bfloat16() if name == "half precision" else x
    return x.to(memory_format=torch.channels_last) if len(shape) == 4 else x


def one_of_two(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {}
    for name, (layer, shape) in CASES.items():
        network = SyncOnCpu().apply(nn.Sequential(layer))
        assert isinstance(network[0], SyncBatchNorm)
        results[name] = work(network[0], whole_batch(name, shape).chunk(2)[rank])
        assert SyncOnCpu().revert(network)[0] is layer
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(one_of_two, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(params=CASES)
def results(processes, request):
    """What one process makes of the whole batch, and what each of two made of its half."""
    layer, shape = CASES[request.param]
    whole = work(copy.deepcopy(layer), whole_batch(request.param, shape))
    return whole, [process[request.param] for process in processes]


def assert_close(found, expected):
    # Where rows are of half precision, what was computed from them is as well.
    assert found.dtype == expected.dtype
    relative = 2e-2 if expected.dtype == torch.bfloat16 else 1e-5
    difference = (found.double() - expected.double()).norm()
    assert difference <= relative * expected.double().norm() + 1e-7


def test_outputs_and_gradients_of_the_rows_are_those_of_the_whole_batch(results):
    whole, halves = results
    for expected, *found in zip(whole["rows"], *(half["rows"] for half in halves), strict=True):
        assert_close(torch.cat(found), expected)


def test_the_gradients_of_two_processes_add_up_to_those_of_the_whole_batch(results):
    whole, halves = results
    half_precision = whole["rows"][0].dtype == torch.bfloat16
    for name, expected in whole["gradients"].items():
        found = sum(half["gradients"][name] for half in halves)
        if half_precision:
            found, expected = found.bfloat16(), expected.bfloat16()
        assert_close(found, expected)


def test_the_state_of_each_process_is_that_of_the_whole_batch_under_the_same_names(results):
    whole, halves = results
    for half in halves:
        assert half["state"].keys() == whole["state"].keys()
        for name, expected in whole["state"].items():
            assert_close(half["state"][name], expected)
