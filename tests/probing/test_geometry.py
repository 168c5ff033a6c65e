"""Alignment, uniformity and effective rank, against closed forms and figures worked out by hand."""

import math

import numpy as np
import pytest
import torch

from clmr.probing.geometry import alignment, effective_rank, uniformity


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def circle(n):
    """Points at equal distances on a circle, each of another length."""
    angle = torch.arange(n) * 2 * math.pi / n
    return torch.stack([angle.cos(), angle.sin()], dim=1) * (1 + torch.arange(n))[:, None]


# Alignment: |a - b|^2 of unit vectors is 2 - 2 cos of their angle.


@pytest.mark.parametrize("degrees", [0, 10, 60, 90, 180])
def test_alignment_is_the_squared_chord_of_the_angle_between_the_views(degrees):
    angle = math.radians(degrees)
    z_j = torch.tensor([math.cos(angle), math.sin(angle)]).expand(3, 2)
    z_i = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.1, 0.0]])  # lengths do not count
    assert alignment(z_i, z_j) == pytest.approx(2 - 2 * math.cos(angle), abs=1e-6)


def test_alignment_is_a_mean_over_clips():
    z_i = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    z_j = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert alignment(z_i, z_j) == pytest.approx((0 + 2 + 4) / 3)


def test_views_that_have_nothing_in_common_are_aligned_as_chance_is():
    assert alignment(randn(20_000, 16), randn(20_000, 16, seed=1)) == pytest.approx(2, abs=0.02)


# Uniformity.


@pytest.mark.parametrize("row", [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [1e-9, 0.0, 0.0]])
def test_a_collapsed_encoder_has_the_worst_uniformity_and_the_best_alignment(row):
    z = torch.tensor(row).expand(7, 3)
    assert uniformity(z) == pytest.approx(0, abs=1e-12)
    assert alignment(z, z) == 0


@pytest.mark.parametrize("t", [1, 2, 3])
def test_uniformity_of_points_on_a_circle_is_the_sum_over_their_chords(t):
    n = 12
    chords = [4 * math.sin(math.pi * k / n) ** 2 for k in range(1, n)]  # squared
    expected = math.log(sum(math.exp(-t * chord) for chord in chords) / (n - 1))
    assert uniformity(circle(n), t) == pytest.approx(expected, rel=1e-6)


def test_uniformity_nears_that_of_the_even_distribution():
    # E exp(-t |x - y|^2) = exp(-2t) E exp(2t cos): on a circle a Bessel function, on a sphere,
    # where the cosine is uniform in [-1, 1], sinh(2t) / 2t; the formula's t is 2.
    assert uniformity(circle(4000)) == pytest.approx(-4 + math.log(np.i0(4)), abs=0.01)
    sphere = -4 + math.log(math.sinh(4) / 4)
    assert uniformity(randn(4000, 3)) == pytest.approx(sphere, abs=0.02)


def test_uniformity_of_two_opposite_points_is_minus_two_times_four():
    assert uniformity(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])) == pytest.approx(-8)


def test_uniformity_of_one_clip_is_refused():
    with pytest.raises(ValueError, match="got 1, expected 2"):
        uniformity(randn(1, 4))


# Effective rank.


@pytest.mark.parametrize("k", [1, 2, 5, 16])
def test_directions_of_equal_strength_are_counted(k):
    left, right = (torch.linalg.qr(randn(n, n, seed=n))[0][:, :k] for n in (40, 16))
    assert effective_rank(0.3 * left @ right.T) == pytest.approx(k, rel=1e-5)


def test_directions_of_unequal_strength_count_by_the_entropy_of_their_shares():
    h = torch.diag(torch.tensor([3.0, 1.0, 0.0]))
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(h) == pytest.approx(expected, rel=1e-6)
    assert effective_rank(1e-20 * h) == pytest.approx(expected, rel=1e-6)


def test_features_that_are_all_the_same_have_rank_one_and_zeros_none():
    assert effective_rank(randn(1, 8).expand(50, 8)) == pytest.approx(1, abs=1e-5)
    assert effective_rank(torch.zeros(50, 8)) == 0


def test_a_shared_part_lowers_the_effective_rank_as_the_features_are_not_centred():
    h = randn(500, 8)
    assert effective_rank(h) > 7.9
    assert effective_rank(h + 1000) < 1.1
