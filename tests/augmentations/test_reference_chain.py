"""The chain of torchaudio-augmentations on one crop: what it is made of, and what decides."""

import math
import pickle
import random

import numpy as np
import pytest
import torch

from clmr.augmentations import AUGMENTATIONS
from clmr.augmentations.reference import ReferenceChain

SAMPLE_RATE, N_SAMPLES = 8000, 4000  # longer than the longest delay
OFF = dict.fromkeys(AUGMENTATIONS, 0)
ON = dict.fromkeys(AUGMENTATIONS, 1)

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of theirs


def chain(**changed):
    return ReferenceChain(OFF | changed, SAMPLE_RATE, N_SAMPLES)


def crop():
    return 0.1 * torch.randn(1, N_SAMPLES, generator=torch.Generator().manual_seed(0))


def states():
    of_numpy = np.random.get_state()  # noqa: NPY002
    return random.getstate(), of_numpy[1].tolist(), of_numpy[2:], torch.get_rng_state().tolist()


def test_its_steps_and_their_order_are_those_of_clmr():
    probabilities = {name: (k + 1) / 10 for k, name in enumerate(AUGMENTATIONS)}
    steps = ReferenceChain(probabilities, SAMPLE_RATE, N_SAMPLES).augment.transforms
    found = [([type(one).__name__ for one in step.transforms], step.p) for step in steps]
    assert found == [  # Spijkervet & Burgoyne 2021, section 3.1, and main.py of their code
        (["PolarityInversion"], 0.1),
        (["Noise"], 0.2),
        (["Gain"], 0.3),
        (["HighLowPass"], 0.4),
        (["Delay"], 0.5),
        (["PitchShift"], 0.6),
        (["Reverb"], 0.7),
        (["Reverse"], 0.8),
    ]


def test_steps_know_the_sample_rate_and_the_length_of_a_crop():
    filters, delay, pitch, reverb = (
        step.transforms[0]
        for step in chain(filters=1, delay=1, pitch=1, reverb=1).augment.transforms
    )
    rates = [step.sample_rate for step in (filters, delay, pitch, reverb)]
    assert rates == [SAMPLE_RATE] * 4
    assert pitch.n_samples == N_SAMPLES


def test_a_step_of_probability_0_is_left_out():
    assert len(chain(gain=0.5).augment.transforms) == 1
    assert torch.equal(chain()(crop(), 0), crop())


def test_a_step_is_applied_as_often_as_its_probability_says():
    x, n, p = crop(), 2000, 0.8
    turned = chain(polarity=p)
    n_turned = sum(torch.equal(turned(x, seed), -x) for seed in range(n))
    assert abs(n_turned / n - p) < 3 * math.sqrt(p * (1 - p) / n)


def test_the_whole_chain_gives_a_view_of_the_same_shape_and_leaves_the_crop():
    x = crop()
    y = ReferenceChain(ON, SAMPLE_RATE, N_SAMPLES)(x, 0)
    assert (y.shape, y.dtype) == (x.shape, torch.float32)
    assert y.isfinite().all()
    assert torch.equal(x, crop())


@pytest.mark.parametrize("name", ["noise", "gain", "filters", "delay", "pitch", "reverb"])
def test_what_is_drawn_is_a_function_of_the_seed_alone(name):
    one, x = chain(**{name: 1}), crop()
    y = one(x, 2**62 + 1)
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    assert torch.equal(one(x, 2**62 + 1), y)
    others = [one(x, seed) for seed in (1, 2, 3, 2**62)]
    assert not all(torch.equal(other, y) for other in others)


def test_the_global_generators_are_left_as_they_were():
    before = states()
    ReferenceChain(ON, SAMPLE_RATE, N_SAMPLES)(crop(), 5)
    assert states() == before


def test_the_global_generators_are_put_back_after_an_error_too():
    before = states()
    with pytest.raises(TypeError):
        chain(noise=1)(None, 5)
    assert states() == before


def test_it_computes_on_one_thread_wherever_it_runs(monkeypatch):
    before, one = torch.get_num_threads(), chain(gain=1)
    monkeypatch.setattr(one, "augment", lambda x: x + torch.get_num_threads())
    torch.set_num_threads(3)
    try:
        assert torch.equal(one(crop(), 0), crop() + 1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_process_that_is_spawned_builds_its_own():
    sent = pickle.dumps(chain(reverb=1, gain=1))
    assert b"torchaudio_augmentations" not in sent  # which fails before the stand-in is there
    assert torch.equal(pickle.loads(sent)(crop(), 7), chain(reverb=1, gain=1)(crop(), 7))


def test_crops_shorter_than_the_longest_delay_are_refused_if_there_is_a_delay():
    n_least = int(0.45 * SAMPLE_RATE)
    shortest = ReferenceChain(OFF | {"delay": 1}, SAMPLE_RATE, n_least)
    for seed in range(20):  # of six delays
        assert shortest(crop()[:, :n_least], seed).shape == (1, n_least)
    with pytest.raises(ValueError, match="delay: got crops of 3599 samples for one of 3600"):
        ReferenceChain(OFF | {"delay": 0.1}, SAMPLE_RATE, n_least - 1)
    ReferenceChain(ON | {"delay": 0}, SAMPLE_RATE, n_least - 1)
