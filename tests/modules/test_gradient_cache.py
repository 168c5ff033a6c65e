"""Projections in chunks, held against the same without recomputation."""

import copy

import pytest
import torch
from simclr import SimCLR
from torch import nn

from clmr.encoders import SampleCNNSmall
from clmr.losses import LOSSES, build_loss
from clmr.modules.gradient_cache import project_in_chunks

N_CLIPS, N_SAMPLES = 7, 3**10


def views():
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(2, N_CLIPS, 1, N_SAMPLES, generator=generator).double()


def network():
    torch.manual_seed(1)
    encoder = SampleCNNSmall()
    return SimCLR(encoder, 8, encoder.n_features).double()


def gradients(model):
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("name", LOSSES)
def test_without_batch_norm_loss_and_gradients_are_those_of_the_whole_batch(name):
    loss = build_loss(LOSSES[name], 0.5)
    model = network().eval()  # batch norms by their running statistics
    x_i, x_j = views()
    whole = loss(*model(x_i, x_j)[2:])
    whole.backward()
    expected = gradients(model)
    model.zero_grad()
    found = loss(*project_in_chunks(model, x_i, x_j, 3))
    found.backward()
    torch.testing.assert_close(found, whole)
    for a, b in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_with_batch_norm_all_is_as_if_each_chunk_were_encoded_once():
    loss = build_loss(LOSSES["nt_xent"], 0.5)
    cached, plain = network(), network()
    x_i, x_j = views()
    sizes = [3, 2, 2]
    for _ in range(2):
        chunks = zip(x_i.split(sizes), x_j.split(sizes), strict=True)
        parts = [plain(*chunk)[2:] for chunk in chunks]
        loss(*map(torch.cat, zip(*parts, strict=True))).backward()
        loss(*project_in_chunks(cached, x_i, x_j, 3)).backward()
    for a, b in zip(gradients(cached), gradients(plain), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(cached.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b)  # running statistics have seen each chunk once, not twice


class Dropping(nn.Module):
    """An encoder that draws, as those with dropout do."""

    def __init__(self):
        super().__init__()
        self.linear, self.drop = nn.Linear(4, 4), nn.Dropout(0.5)
        self.fc = nn.Identity()

    def forward(self, x):
        return self.drop(self.linear(x[:, 0]))


def test_the_second_pass_draws_what_the_first_drew():
    torch.manual_seed(0)
    model = SimCLR(Dropping(), 2, 4)
    x_i, x_j = torch.randn(2, 6, 1, 4)
    results = []
    for chunks in (lambda m: project_in_chunks(m, x_i, x_j, 6), lambda m: m(x_i, x_j)[2:]):
        twin = copy.deepcopy(model)
        torch.manual_seed(3)
        z_i, z_j = chunks(twin)
        (z_i * z_j).sum().backward()
        results.append(gradients(twin))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_no_more_than_a_chunk_is_encoded_at_a_time_and_each_twice():
    model, sizes = network(), []
    model.encoder.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    z_i, z_j = project_in_chunks(model, *views(), 3)
    first = len(sizes)
    (z_i * z_j).sum().backward()
    assert sizes[:first] == [3, 3, 2, 2, 2, 2]
    assert sorted(sizes[first:]) == [2, 2, 2, 2, 3, 3]


def test_activations_of_one_chunk_at_a_time_are_kept():
    def bytes_kept(project):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.append(t.nbytes) or t, lambda t: t
        ):
            z_i, z_j = project()
        return sum(kept)

    model, (x_i, x_j) = network(), views()
    plain = bytes_kept(lambda: model(x_i, x_j)[2:])
    assert bytes_kept(lambda: project_in_chunks(model, x_i, x_j, 3)) < 0.05 * plain
