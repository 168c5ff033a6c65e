"""Reverse."""

import torch

from clmr.augmentations import Reverse


def test_the_end_comes_first_and_twice_is_not_at_all():
    x = torch.tensor([[[0.25, -1.0, 0.0, 0.5]], [[1.0, 2.0, 3.0, 4.0]]])
    once = Reverse(p=1)(x)
    assert once.tolist() == [[[0.5, 0.0, -1.0, 0.25]], [[4.0, 3.0, 2.0, 1.0]]]
    assert torch.equal(Reverse(p=1)(once), x)
