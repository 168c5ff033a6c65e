"""Metrics, against values computed by hand and against their definitions written out."""

import json
from itertools import product

import numpy as np
import pytest

from clmr.errors import ClmrError
from clmr.metrics import average_per_clip, tag_scores


def brute_force_roc_auc(labels, scores):
    """Probability that a clip with the tag outranks one without; a tie is half a win."""
    positives, negatives = scores[labels == 1], scores[labels == 0]
    wins = [(p > n) + 0.5 * (p == n) for p, n in product(positives, negatives)]
    return sum(wins) / len(wins)


def step_sum_average_precision(labels, scores):
    """Sum of precision times gain in recall, over falling thresholds; ties share a threshold."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        retrieved = labels[scores >= threshold]
        recall = retrieved.sum() / labels.sum()
        total += retrieved.mean() * (recall - recall_before)
        recall_before = recall
    return total


def test_one_tag_has_the_areas_computed_by_hand():
    labels = np.array([[1], [0], [1], [0]], dtype=np.uint8)
    scores = np.array([[0.9], [0.8], [0.7], [0.1]])
    result = tag_scores(labels, scores, ["harp"])
    # Pairs (0.9, 0.8) won, (0.9, 0.1) won, (0.7, 0.8) lost, (0.7, 0.1) won: 3 of 4.
    assert result.roc_auc == pytest.approx(3 / 4)
    # By rank: hit, precision 1/1, recall +1/2; miss; hit, precision 2/3, recall +1/2; miss.
    assert result.pr_auc == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert result.per_tag["harp"]["positives"] == 2


def test_a_tie_between_a_hit_and_a_miss_is_half_a_win():
    result = tag_scores([[1], [0], [0]], [[0.5], [0.5], [0.2]], ["harp"])
    # Pairs: tie 1/2, won 1, of 2. The tied clips are retrieved together: 1 of 2 is right.
    assert result.roc_auc == pytest.approx((1 / 2 + 1) / 2)
    assert result.pr_auc == pytest.approx(1 / 2)


def test_every_tag_agrees_with_the_definitions_and_macro_is_their_mean():
    rng = np.random.default_rng(0)
    tags = ["harp", "choir", "sitar", "loud"]
    labels = (rng.random((60, 4)) < [0.05, 0.2, 0.5, 0.9]).astype(np.uint8)
    scores = rng.integers(0, 12, (60, 4)) / 12 + labels / 6  # many ties
    result = tag_scores(labels, scores, tags)
    roc = [brute_force_roc_auc(labels[:, i], scores[:, i]) for i in range(4)]
    pr = [step_sum_average_precision(labels[:, i], scores[:, i]) for i in range(4)]
    assert [result.per_tag[tag]["roc_auc"] for tag in tags] == pytest.approx(roc)
    assert [result.per_tag[tag]["pr_auc"] for tag in tags] == pytest.approx(pr)
    assert [result.per_tag[tag]["positives"] for tag in tags] == labels.sum(axis=0).tolist()
    assert (result.roc_auc, result.pr_auc) == pytest.approx((sum(roc) / 4, sum(pr) / 4))


def test_tags_that_no_clip_or_every_clip_has_are_named_and_left_out_of_the_mean():
    labels = np.array([[1, 0, 1], [0, 0, 1]], dtype=np.uint8)
    scores = np.array([[0.9, 0.4, 0.3], [0.1, 0.6, 0.2]])
    result = tag_scores(labels, scores, ["harp", "sitar", "loud"])
    assert result.skipped == ("sitar", "loud")
    assert list(result.per_tag) == ["harp"]
    assert (result.roc_auc, result.pr_auc) == (1.0, 1.0)


@pytest.mark.parametrize("label", [0, 1])
def test_a_split_in_which_no_tag_can_be_scored_is_refused(label):
    with pytest.raises(ClmrError, match="none of 2 tags can be scored.*3 clips"):
        tag_scores(np.full((3, 2), label), np.zeros((3, 2)), ["harp", "choir"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused_with_their_place(value):
    scores = np.zeros((2, 2))
    scores[1, 0] = value
    with pytest.raises(ClmrError, match=f"not finite.*is {value} for clip number 1.*harp"):
        tag_scores([[1, 0], [0, 1]], scores, ["harp", "choir"])


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        ([[1, 0], [0, 1], [0, 0]], [[0.1, 0.2], [0.3, 0.4]]),
        ([[1], [0]], [[0.1], [0.2]]),
        ([1, 0], [0.1, 0.2]),
    ],
)
def test_labels_and_scores_of_another_shape_than_the_tags_are_refused(labels, scores):
    with pytest.raises(ValueError, match=r"expected \[n_clips, 2\] twice"):
        tag_scores(labels, scores, ["harp", "choir"])


def test_labels_other_than_0_and_1_are_refused():
    with pytest.raises(ValueError, match="expected 0 and 1"):
        tag_scores([[2], [0]], [[0.1], [0.2]], ["harp"])


def test_the_result_survives_json():
    labels, scores = np.array([[1, 0], [0, 0]], np.uint8), np.array([[0.9, 0.4], [0.1, 0.6]])
    written = tag_scores(labels, scores, ["harp", "sitar"]).to_dict()
    assert (
        json.loads(json.dumps(written))
        == written
        == {
            "roc_auc": 1.0,
            "pr_auc": 1.0,
            "per_tag": {"harp": {"roc_auc": 1.0, "pr_auc": 1.0, "positives": 1}},
            "skipped": ["sitar"],
        }
    )


def test_windows_are_averaged_by_clip_in_any_order_and_number():
    scores = np.array([[1.0, 10.0], [4.0, 0.0], [3.0, 20.0], [5.0, 60.0]], dtype=np.float32)
    means = average_per_clip(scores, np.array([1, 0, 1, 1]), 2)
    # Clip 0: its only window. Clip 1: (1 + 3 + 5) / 3 and (10 + 20 + 60) / 3.
    assert means.tolist() == [[4.0, 0.0], [3.0, 30.0]]
    assert means.dtype == np.float64


def test_a_clip_without_a_window_is_refused_by_its_number():
    with pytest.raises(ClmrError, match="1 of 3 clips have no window, the first is number 1"):
        average_per_clip(np.ones((2, 4)), np.array([0, 2]), 3)


@pytest.mark.parametrize("clips", [[-1, 0], [0, 2]])
def test_a_window_of_a_clip_that_does_not_exist_is_refused(clips):
    with pytest.raises(ValueError, match="expected 0 to 1"):
        average_per_clip(np.ones((2, 4)), clips, 2)


@pytest.mark.parametrize(("scores", "clips"), [(np.ones(2), [0, 1]), (np.ones((3, 4)), [0, 1])])
def test_scores_without_a_clip_for_each_window_are_refused(scores, clips):
    with pytest.raises(ValueError, match=r"expected \[K, C\] and \[K\]"):
        average_per_clip(scores, clips, 2)
