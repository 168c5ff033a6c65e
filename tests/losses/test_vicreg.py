"""VICReg against the paper's formulas in float64 loops."""

import numpy as np
import pytest
import torch
from projections import numeric_gradient, projections, with_gradients

from clmr.losses import VICReg


def paper_loss(z_i, z_j):
    """Equations 1 to 6 of Bardes et al. 2022, arXiv:2105.04906, one number after the other.

    The invariance is a mean over dimensions too, as in the paper's algorithm 1.
    """
    n, d = z_i.shape
    invariance = sum((z_i[k, c] - z_j[k, c]) ** 2 for k in range(n) for c in range(d)) / (n * d)
    variance = covariance = 0.0
    for z in (z_i, z_j):
        mean = [sum(z[:, c]) / n for c in range(d)]
        for a in range(d):
            for b in range(d):
                moment = sum((z[k, a] - mean[a]) * (z[k, b] - mean[b]) for k in range(n)) / (n - 1)
                if a == b:
                    variance += max(0, 1 - np.sqrt(moment + 1e-4)) / d
                else:
                    covariance += moment**2 / d
    return 25 * invariance + 25 * variance + 1 * covariance


@pytest.mark.parametrize("scale", [1e-3, 0.5, 1, 30])
@pytest.mark.parametrize(("n_clips", "n_dims"), [(2, 3), (5, 4), (9, 1), (4, 8)])
def test_loss_is_that_of_the_papers_loops(n_clips, n_dims, scale):
    z_i, z_j = (scale * z for z in projections(n_clips, n_dims))
    expected = paper_loss(z_i.double().numpy(), z_j.double().numpy())
    assert VICReg()(z_i, z_j).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_is_that_of_the_papers_loops():
    z_i, z_j = (0.8 * z.double() for z in projections(4, n_dims=3))
    _, *gradients = with_gradients(VICReg(), z_i, z_j)
    expected = numeric_gradient(lambda z: paper_loss(*z), np.stack([z_i, z_j]))
    np.testing.assert_allclose(np.stack(gradients), expected, rtol=1e-6, atol=1e-8)


def test_equal_views_that_vary_enough_in_directions_of_their_own_have_no_loss():
    z = torch.tensor([[2.0, 2], [2, -2], [-2, 2], [-2, -2]])
    assert VICReg()(z, z).item() == 0


def test_collapsed_projections_cost_the_hinge_of_both_views():
    z = torch.full((6, 4), 3.0)
    assert VICReg()(z, z).item() == pytest.approx(25 * 2 * (1 - 0.01))  # 0.01 = sqrt(1e-4)


def test_where_projections_are_does_not_count():
    z_i, z_j = projections(5)
    expected = VICReg()(z_i, z_j)
    torch.testing.assert_close(VICReg()(z_i + 3, z_j + 3), expected, rtol=1e-5, atol=1e-5)


def test_one_clip_alone_has_its_invariance_and_no_variance():
    z_i, z_j = torch.tensor([[1.0, 2]]), torch.tensor([[3.0, 2]])
    expected = 25 * (4 / 2) + 25 * 2 * 0.99
    assert VICReg()(z_i, z_j).item() == pytest.approx(expected)
