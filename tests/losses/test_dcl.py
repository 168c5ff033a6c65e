"""Decoupled NT-Xent against the paper's formula in float64 loops."""

import math

import numpy as np
import pytest
import torch
from projections import ALWAYS, NEVER, numeric_gradient, paper_pairs, projections, with_gradients

from clmr.losses import DCL, NTXent, strips


@pytest.fixture(params=[NEVER, ALWAYS], ids=["whole", "strips"])
def dcl(request, monkeypatch):
    monkeypatch.setattr(strips, "STRIP", 3)  # several, and a shorter one at the end
    return lambda temperature: DCL(temperature, request.param)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3])
@pytest.mark.parametrize("n_clips", [2, 3, 8])
def test_loss_is_that_of_the_papers_double_loop(dcl, n_clips, temperature):
    z_i, z_j = projections(n_clips)
    expected = paper_pairs(z_i.double().numpy(), z_j.double().numpy(), temperature, True)
    assert dcl(temperature)(z_i, z_j).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_is_that_of_the_papers_double_loop(dcl):
    z_i, z_j = (z.double() for z in projections(3, n_dims=4))
    _, *gradients = with_gradients(dcl(0.5), z_i, z_j)
    both = np.stack([z_i, z_j])
    expected = numeric_gradient(lambda z: paper_pairs(*z, 0.5, True), both)
    np.testing.assert_allclose(np.stack(gradients), expected, rtol=1e-6, atol=1e-9)


def test_two_orthogonal_clips_with_equal_views_have_the_loss_computed_by_hand(dcl):
    z = torch.eye(2)
    # Each row: its twin has similarity 1, the two views of the other clip 0.
    assert dcl(0.5)(z, z).item() == pytest.approx(-2 + math.log(2), rel=1e-6)


def test_it_is_nt_xent_without_the_twin_in_the_denominator(dcl):
    # With one other clip at right angles: NT-Xent is log(exp(DCL) + 1).
    z = torch.eye(2)
    expected = math.log(math.exp(dcl(0.5)(z, z).item()) + 1)
    assert NTXent(0.5)(z, z).item() == pytest.approx(expected, rel=1e-6)


def test_a_clip_without_others_has_no_loss_and_no_gradient(dcl):
    loss, *gradients = with_gradients(dcl(0.5), *projections(1))
    assert loss.item() == 0
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)
