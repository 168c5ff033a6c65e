"""Features of every window of a split."""

import numpy as np
import pytest
import torch
from fixtures_store import samples_of, write_store

from clmr.encoders import Encoder
from clmr.features import extract_features
from clmr.splits import Split

WINDOW = 50
LENGTHS = [300, 120, 50, 75, 200, 51, 400, 90]


class Ends(Encoder):
    """First and last sample of a window, and whether the network is in evaluation mode."""

    n_features, min_length = 3, 1

    def forward(self, x):
        mode = torch.full((len(x),), float(not self.training))
        return torch.stack([x[:, 0, 0], x[:, 0, -1], mode], dim=-1)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"), LENGTHS)


def extract(store, clips, **changed):
    split = Split(np.array(clips), np.arange(2 * len(clips), dtype=np.uint8).reshape(-1, 2))
    known = {"batch_size": 4, "device": torch.device("cpu"), "workers": 0, "name": "test"}
    return extract_features(Ends().train(), store, split, WINDOW, **(known | changed)), split


@pytest.mark.parametrize("changed", [{}, {"batch_size": 1}, {"batch_size": 99}, {"workers": 1}])
def test_every_window_of_every_clip_is_encoded_once_in_order(store, changed):
    clips = [6, 2, 0, 5]
    features, split = extract(store, clips, **changed)
    expected, clip_of_window = [], []
    for place, clip in enumerate(clips):
        x = samples_of(clip, LENGTHS[clip]) / 32768
        for start in range(0, LENGTHS[clip] - WINDOW + 1, WINDOW):
            expected.append([x[start], x[start + WINDOW - 1], 1])
            clip_of_window.append(place)
    np.testing.assert_array_equal(features.h, np.array(expected, dtype=np.float32))
    assert features.clip_of_window.tolist() == clip_of_window
    assert features.labels is split.labels


def test_features_can_be_trained_on(store):
    features, _ = extract(store, [0])
    head = torch.nn.Linear(3, 1)
    head(features.h[torch.tensor([0, 1])]).sum().backward()
    assert head.weight.grad.abs().sum() > 0
