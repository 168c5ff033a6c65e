"""What is said of figures as dead runs have them, and of those of runs that live."""

import pytest

from clmr.probing.collapse import what_is_dead

GOOD = {"alignment": 0.5, "uniformity": -2.0, "effective_rank": 30.0}


@pytest.mark.parametrize(
    ("changed", "most_rank", "said"),
    [
        ({}, 256, ""),
        ({"effective_rank": 12.7}, 256, "the features of all clips are nearly alike"),
        ({"effective_rank": 12.9}, 256, ""),
        ({"effective_rank": 2.1}, 20, ""),  # of ten clips, 5 % would be one direction
        ({"effective_rank": 1.9}, 20, "effective rank 1.9 of 20"),
        ({"uniformity": -0.021}, 256, ""),
        ({"uniformity": -0.019}, 256, "the projections of all clips are nearly alike"),
        ({"uniformity": 0.0, "effective_rank": 1.0}, 256, " and the projections"),
    ],
)
def test_what_has_collapsed_is_said_in_words(changed, most_rank, said):
    found = what_is_dead(GOOD | changed, most_rank)
    assert said in found
    assert bool(found) == bool(said)


def test_outputs_that_are_not_finite_are_dead():
    assert "not finite" in what_is_dead({}, 256)
