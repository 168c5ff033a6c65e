"""Delay: one echo, held against a loop over the samples."""

import math

import pytest
import torch

from clmr.augmentations import Delay


def shift_and_add(row, offset, volume_factor):
    """y[n] = (x[n] + v x[n - o]) / 2, sample by sample."""
    x = row.tolist()
    echo = [x[n - offset] if n >= offset else 0.0 for n in range(len(x))]
    return [(a + volume_factor * b) / 2 for a, b in zip(x, echo, strict=True)]


def test_a_click_is_followed_by_its_echo_after_the_delay():
    x = torch.zeros(1, 1, 22_050)
    x[..., 100] = 1
    y = Delay(1, sample_rate=22_050, min_delay_ms=200, max_delay_ms=200)(x)[0, 0]
    assert torch.nonzero(y)[:, 0].tolist() == [100, 100 + 4410]  # 0.2 s
    assert y[[100, 4510]].tolist() == [0.5, 0.25]


@pytest.mark.parametrize("volume_factor", [0, 0.5, 1])
def test_every_row_is_bit_for_bit_the_loop_over_its_samples(volume_factor):
    # Factors are powers of two, so that the loop's float64 rounds where float32 does: nowhere.
    sample_rate, delays_ms = 1000, torch.tensor([200, 0, 450, 1, 299, 300])
    x = torch.randint(-(2**15), 2**15, (6, 1, 300)) / 2**15
    y = Delay(1, sample_rate, volume_factor).apply(x, {"delay_ms": delays_ms})
    expected = [
        [shift_and_add(row[0], int(ms), volume_factor)]
        for row, ms in zip(x, delays_ms, strict=True)
    ]
    assert torch.equal(y, torch.tensor(expected))


def test_the_delay_is_rounded_down_to_a_whole_sample():
    x = torch.zeros(1, 1, 8000)
    x[..., 0] = 1
    y = Delay(1, sample_rate=22_050).apply(x, {"delay_ms": torch.tensor([250])})
    assert torch.nonzero(y[0, 0])[:, 0].tolist() == [0, 5512]  # of 5512.5


@pytest.mark.parametrize("delay_ms", [0, 299, 300, 301, 5000])
def test_a_delay_around_the_length_of_a_row_meets_nothing_of_its_neighbours(delay_ms):
    x = torch.stack([torch.full((1, 300), 0.5), torch.ones(1, 300)])
    y = Delay(1, 1000).apply(x, {"delay_ms": torch.full((2,), delay_ms)})
    expected = torch.tensor([shift_and_add(row[0], delay_ms, 0.5) for row in x])
    assert torch.equal(y[:, 0], expected)


def test_a_row_of_one_sample_is_halved_unless_the_delay_is_0():
    x = torch.tensor([[[0.5]], [[1.0]]])
    y = Delay(1, 1000).apply(x, {"delay_ms": torch.tensor([0, 1])})
    assert y.tolist() == [[[0.375]], [[0.5]]]


def test_a_row_shorter_than_the_delay_is_halved():
    x = torch.rand(3, 1, 100)
    assert torch.equal(Delay(1, sample_rate=22_050)(x), x / 2)


def test_delays_are_200_to_450_ms_in_steps_of_50_and_all_equally_likely():
    n = 20_000
    delays = Delay(1, 22_050, generator=torch.Generator().manual_seed(0)).draw(n)["delay_ms"]
    values, counts = delays.unique(return_counts=True)
    assert values.tolist() == [200, 250, 300, 350, 400, 450]  # 500 is never drawn
    assert (counts / n - 1 / 6).abs().max() < 3 * math.sqrt(1 / 6 * 5 / 6 / n)


def test_equal_bounds_fix_the_delay():
    delays = Delay(1, 22_050, min_delay_ms=330, max_delay_ms=330).draw(50)["delay_ms"]
    assert delays.unique().tolist() == [330]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_delay_ms": -1}, "delay_ms: got -1 to 500"),
        ({"min_delay_ms": 300, "max_delay_ms": 200}, "delay_ms: got 300 to 200"),
        ({"delay_interval_ms": 0}, "delay_interval_ms: got 0"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Delay(1, 22_050, **settings)
