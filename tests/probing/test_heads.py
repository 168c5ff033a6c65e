"""Heads in closed form, against scikit-learn's own."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from clmr.probing.heads import knn_scores, linear_scores

HEADS = [knn_scores, linear_scores]


def drawn(n_fit=40, n=25, n_features=12, n_tags=3):
    """Features, and tags that follow from them and from chance."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((n_fit + n, n_features)) * np.arange(1, n_features + 1) + 3
    labels = (h[:, :n_tags] + rng.standard_normal((len(h), n_tags)) > 3).astype(np.uint8)
    h, labels = torch.from_numpy(h).float(), torch.from_numpy(labels)
    return h[:n_fit], labels[:n_fit], h[n_fit:]


def test_the_linear_head_is_ridge_regression_on_standardised_features():
    h_fit, labels, h = drawn()
    scaler = StandardScaler().fit(h_fit.double())
    ridge = Ridge(alpha=len(h_fit)).fit(scaler.transform(h_fit.double()), labels)
    expected = ridge.predict(scaler.transform(h.double()))
    np.testing.assert_allclose(linear_scores(h_fit, labels, h), expected, rtol=1e-6)


def test_the_neighbours_are_the_nearest_by_cosine_and_weigh_by_it():
    h_fit, labels, h = drawn()
    scaler = StandardScaler().fit(h_fit.double())
    neighbours = KNeighborsClassifier(
        n_neighbors=6,  # the root of 40
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / 0.07),
    ).fit(scaler.transform(h_fit.double()), labels)
    shares = neighbours.predict_proba(scaler.transform(h.double()))
    expected = np.stack([share[:, 1] for share in shares], axis=1)
    np.testing.assert_allclose(knn_scores(h_fit, labels, h), expected, rtol=1e-5)


def test_two_neighbours_weigh_as_computed_by_hand():
    # Means are 7 and deviations 1, as the corners of a square have it; two are taken of four.
    h_fit = 7 + torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    labels = torch.tensor([[1, 0], [0, 1], [1, 1], [1, 1]])
    cosines = 4 / math.sqrt(20), 2 / math.sqrt(20)  # of (1, 3) with (1, 1) and with (-1, 1)
    weights = [math.exp(cosine / 0.07) for cosine in cosines]
    expected = [weight / sum(weights) for weight in weights]
    scores = knn_scores(h_fit, labels, 7 + torch.tensor([[1.0, 3.0]]))
    assert scores[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("head", HEADS)
def test_features_that_are_all_the_same_score_all_clips_the_same(head):
    _, labels, h = drawn()
    same = torch.full((40, 12), 0.7)
    scores = head(same, labels, same[: len(h)])
    assert (scores == scores[0]).all()


@pytest.mark.parametrize("head", HEADS)
def test_rounding_of_a_feature_that_never_varies_is_not_taken_for_a_sign(head):
    h_fit, labels, h = drawn()
    noise = 1 + 1e-7 * torch.randn(65, 1, generator=torch.Generator().manual_seed(0))
    with_noise = head(
        torch.cat([h_fit, noise[:40]], dim=1), labels, torch.cat([h, noise[40:]], dim=1)
    )
    torch.testing.assert_close(with_noise, head(h_fit, labels, h))


@pytest.mark.parametrize("head", HEADS)
def test_fewer_clips_than_features_do(head):
    h_fit, labels, h = drawn(n_fit=5, n_features=30)
    assert head(h_fit, labels, h).isfinite().all()
