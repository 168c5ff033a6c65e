"""When a curve has stopped getting better: sequences counted by hand."""

import pytest

from clmr.probing.early_stop import EarlyStop

STEPS = (6, 12, 18, 24, 30)


@pytest.mark.parametrize(
    ("curve", "values", "over_at", "best"),
    [
        ("knn_roc_auc", [0.5, 0.6, 0.7, 0.8, 0.9], None, 0.9),
        ("knn_roc_auc", [0.5, 0.7, 0.6, 0.6, 0.9], 24, 0.7),
        ("knn_roc_auc", [0.5, 0.4, 0.6, 0.5, 0.6], 30, 0.6),  # as good is not better
        ("uniformity", [-1, -2, -3, -2, -4], None, -4),
        ("uniformity", [-1, -0.5, -0.9, -3, -4], 18, -1),
        ("effective_rank", [9, None, 8, 7, 6], 18, 9),
        ("effective_rank", [None, None, 8, 7, 6], 12, None),
    ],
)
def test_it_is_over_after_two_points_in_a_row_without_a_new_best(curve, values, over_at, best):
    stop, seen = EarlyStop(curve, patience=2), None
    for step, value in zip(STEPS, values, strict=True):
        stop.see(step, value)
        if stop.is_over:
            seen = step
            break
    assert seen == over_at
    assert stop.best == best


def test_it_says_what_was_best_and_where():
    stop = EarlyStop("knn_roc_auc", patience=2)
    for step, value in zip((1000, 2000, 3000), (0.81, 0.8, 0.7), strict=True):
        stop.see(step, value)
    assert str(stop) == "knn_roc_auc was no better in 2 probes than 0.81 at step 1,000"
