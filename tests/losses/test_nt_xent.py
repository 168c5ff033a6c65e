"""NT-Xent against the paper's formula and SimCLR's own code, whole and in strips."""

import math

import pytest
import torch
from projections import ALWAYS, NEVER, projections, with_gradients
from simclr.modules import NT_Xent

from clmr.losses import NTXent, strips


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


@pytest.fixture(params=[NEVER, ALWAYS], ids=["whole", "strips"])
def nt_xent(request, monkeypatch):
    monkeypatch.setattr(strips, "STRIP", 3)  # several, and a shorter one at the end
    return lambda temperature: NTXent(temperature, request.param)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3])
@pytest.mark.parametrize("n_clips", [1, 2, 5, 8])
def test_loss_and_gradient_are_those_of_the_papers_double_loop(nt_xent, n_clips, temperature):
    z_i, z_j = projections(n_clips)
    ours = with_gradients(nt_xent(temperature), z_i, z_j)
    paper = with_gradients(lambda a, b: paper_loss(a, b, temperature), z_i, z_j)
    for found, expected in zip(ours, paper, strict=True):
        torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("n_clips", [2, 7])
def test_loss_and_gradient_are_those_of_simclr_in_one_process(nt_xent, n_clips, temperature):
    z_i, z_j = projections(n_clips)
    ours = with_gradients(nt_xent(temperature), z_i, z_j)
    theirs = with_gradients(NT_Xent(n_clips, temperature, world_size=1), z_i, z_j)
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_two_orthogonal_clips_with_equal_views_have_the_loss_computed_by_hand(nt_xent):
    z = torch.eye(2)
    # Each row: its twin has similarity 1, the two views of the other clip 0.
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert nt_xent(0.5)(z, z).item() == pytest.approx(expected, rel=1e-6)


def test_collapsed_projections_cannot_be_told_apart(nt_xent):
    z = torch.ones(6, 4)
    assert nt_xent(0.5)(z, z).item() == pytest.approx(math.log(2 * 6 - 1), rel=1e-6)


def test_a_clip_without_others_has_no_loss_and_no_gradient(nt_xent):
    loss, *gradients = with_gradients(nt_xent(0.5), *projections(1))
    assert loss.item() == 0
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)


def test_only_the_direction_of_a_projection_counts(nt_xent):
    z_i, z_j = projections(5)
    lengths = torch.tensor([[1e-3], [0.1], [1], [10], [1e3]])
    expected = nt_xent(0.5)(z_i, z_j)
    torch.testing.assert_close(nt_xent(0.5)(lengths * z_i, 7 * z_j), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_projections_are_compared_in_float32(nt_xent, dtype):
    # Squares of these are beyond float16, and a temperature of 0.05 shows the digits of bfloat16.
    z_i, z_j = (1000 * z.to(dtype) for z in projections(6))
    loss, grad_i, grad_j = with_gradients(nt_xent(0.05), z_i, z_j)
    assert loss.dtype == torch.float32
    assert grad_i.dtype == grad_j.dtype == dtype
    expected = paper_loss(z_i, z_j, 0.05)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [0, -0.5])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="above 0"):
        NTXent(temperature)
