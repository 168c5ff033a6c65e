"""The chain: order, draws that can be repeated, and how it is built."""

import math

import pytest
import torch
import yaml

from clmr.augmentations import (
    AUGMENTATIONS,
    Augmentation,
    Chain,
    Draw,
    build_chain,
    drawn_for,
)

SAMPLE_RATE = 8000


class Add(Augmentation):
    def apply(self, x, parameters):
        return x + 1


class Double(Augmentation):
    def apply(self, x, parameters):
        return 2 * x


class Rated(Augmentation):
    def __init__(self, p, sample_rate, generator=None):
        super().__init__(p, generator)
        self.sample_rate = sample_rate


def whole_chain(p=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return build_chain(AUGMENTATIONS, dict.fromkeys(AUGMENTATIONS, p), SAMPLE_RATE, generator)


def waves(n_rows, n_samples=4000):
    generator = torch.Generator().manual_seed(n_rows)
    return 0.1 * torch.randn(n_rows, 1, n_samples, generator=generator)


def test_steps_are_applied_in_the_order_of_the_registry():
    x = torch.full((2, 1, 3), 5.0)
    probabilities = {"double": 1, "add": 1}  # in another order, which does not count
    add_first = build_chain({"add": Add, "double": Double}, probabilities, SAMPLE_RATE)
    double_first = build_chain({"double": Double, "add": Add}, probabilities, SAMPLE_RATE)
    assert add_first(x).unique().tolist() == [2 * (5 + 1)]
    assert double_first(x).unique().tolist() == [2 * 5 + 1]


def test_each_step_has_the_probability_of_its_name():
    chain = build_chain({"add": Add, "double": Double}, {"add": 0, "double": 1}, SAMPLE_RATE)
    assert chain(torch.ones(4, 1, 2)).unique().tolist() == [2]


def test_steps_that_ask_for_the_sample_rate_are_given_it():
    chain = build_chain({"rated": Rated, "add": Add}, {"rated": 0.5, "add": 0}, 12_345)
    assert chain.steps["rated"].sample_rate == 12_345


def test_what_was_drawn_can_be_applied_again():
    chain, x = whole_chain(), waves(24)
    draws = chain.draw(24)
    views = chain.apply(x, draws)
    assert torch.equal(chain.apply(x, draws), views)
    assert not torch.equal(views, x)


def test_a_call_draws_and_applies():
    x = waves(24)
    chain = whole_chain(seed=1)
    assert torch.equal(whole_chain(seed=1)(x), chain.apply(x, chain.draw(24)))


def test_a_row_of_the_chain_does_not_depend_on_the_others():
    chain, x = whole_chain(p=1), waves(6)
    draws = chain.draw(6)
    together = chain.apply(x, draws)
    other = waves(7)[:6]
    other[2] = x[2]
    torch.testing.assert_close(chain.apply(other, draws)[2], together[2], rtol=0, atol=1e-4)


def test_coins_of_different_steps_are_independent():
    n, p = 20_000, 0.5
    chosen = []
    for draw in whole_chain(p).draw(n).values():
        chosen.append(torch.zeros(n))
        chosen[-1][draw.rows] = 1
    correlation = torch.corrcoef(torch.stack(chosen)) - torch.eye(len(chosen))
    assert correlation.abs().max() < 4 / math.sqrt(n)


def test_the_whole_chain_stays_finite_and_leaves_its_input_as_it_was():
    x = torch.cat([waves(6), torch.zeros(2, 1, 4000), 10 * waves(6)])
    before = x.clone()
    y = whole_chain(p=1)(x)
    assert y.isfinite().all()
    assert y.shape == x.shape
    assert torch.equal(x, before)


def test_no_gradient_flows_through_the_chain():
    chain, x = whole_chain(p=1), waves(2).requires_grad_()
    assert not chain(x).requires_grad
    assert not chain.apply(x, chain.draw(2)).requires_grad


def test_a_chain_without_steps_changes_nothing():
    x = waves(3)
    assert torch.equal(Chain({})(x), x)


def test_a_chain_reads_like_the_settings_it_was_built_from():
    probabilities = {name: k / 10 for k, name in enumerate(AUGMENTATIONS)}
    text = repr(build_chain(AUGMENTATIONS, probabilities, SAMPLE_RATE))
    expected = {f"transforms_{name}": p for name, p in probabilities.items() if p}
    assert yaml.safe_load(text) == expected
    assert list(yaml.safe_load(text)) == list(expected)
    assert "Gain(p=0.2, min_gain_db=-20.0, max_gain_db=-1.0)" in text


def test_a_step_that_is_never_applied_is_left_out():
    assert list(build_chain({"add": Add, "double": Double}, {"add": 0, "double": 1}, 1).steps) == [
        "double"
    ]


def test_a_step_that_does_not_do_at_the_sample_rate_is_named():
    expected = "filters: lowpass_freq: got 2200 to 4000, allowed: .* 1 to 2000"
    with pytest.raises(ValueError, match=expected):
        build_chain(AUGMENTATIONS, dict.fromkeys(AUGMENTATIONS, 0.5), 4000)


def test_what_was_drawn_for_a_row_is_told_by_step():
    draws = {
        "add": Draw(torch.tensor([0, 2]), {}),
        "gain": Draw(torch.tensor([1, 2]), {"gain_db": torch.tensor([-3.0, -4.5])}),
    }
    assert drawn_for(draws, 0) == {"add": {}}
    assert drawn_for(draws, 1) == {"gain": {"gain_db": -3.0}}
    assert drawn_for(draws, 2) == {"add": {}, "gain": {"gain_db": -4.5}}
    assert drawn_for(draws, 3) == {}
