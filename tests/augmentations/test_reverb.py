"""Reverb, held against stored outputs of SoX and against a loop over the samples."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from clmr.augmentations import Reverb
from clmr.augmentations.freeverb import Room

DATA = Path(__file__).parents[1] / "data"
NAMES = ("reverberance", "damping", "room_scale")
STORED = json.loads((DATA / "parameters.json").read_text())
TRIPLES = STORED["reverb"] + STORED["reverb_short"]
RATES = (8000, 16_000, 44_100, 48_000)
N_LOOP = 20_000

# For a room of 100 % at 22,050 Hz: delays of both ears in samples, computed by hand.
COMBS = [[558, 594, 639, 678, 711, 746, 779, 809], [564, 588, 645, 672, 717, 740, 785, 803]]
ALLPASSES = [[113, 171, 221, 278], [119, 165, 227, 272]]


def stored(name, n_rows):
    """Rows of a file, float64 [N, 1, T]."""
    return torch.from_numpy(soundfile.read(DATA / f"{name}.flac")[0]).view(n_rows, 1, -1)


def reverberate(x, triples, sample_rate=22_050, exact=False):
    parameters = dict(zip(NAMES, torch.tensor(triples).T, strict=True))
    return Reverb(1, sample_rate, exact=exact).apply(x, parameters)


def worst_error(y, expected):
    """Greatest relative L2 error of a row."""
    y, expected = y.double().flatten(1), torch.as_tensor(expected).flatten(1)
    return ((y - expected).norm(dim=1) / expected.norm(dim=1)).max().item()


def comb_delays(room_scale, sample_rate):
    """`[P, 2, 8]` samples, of float `[P]`: freeverb's, the second ear's 12 more or less."""
    first = np.array([1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617])
    both = np.stack([first, first + 12 * (-1) ** np.arange(8)])
    scale = (room_scale / 100 * 0.9 + 0.1) * sample_rate / 44_100
    return np.floor(scale[:, None, None] * both + 0.5).astype(int)


def allpass_delays(sample_rate):
    """`[2, 4]` samples."""
    first = np.array([225, 341, 441, 556])
    both = np.stack([first, first + 12 * (-1) ** np.arange(4)])
    return np.floor(sample_rate / 44_100 * both + 0.5).astype(int)


def loop_over_samples(x, triples, sample_rate):
    """Freeverb as SoX sets it, one sample after the other; float64 `[P, T]` -> `[P, T]`."""
    reverberance, damping, room_scale = np.array(triples, dtype=float).T
    a = -1 / math.log(1 - 0.3)
    b = 100 / (math.log(1 - 0.98) * a + 1)
    feedback = (1 - np.exp((reverberance - b) / (a * b))).astype(np.float32).astype(float)
    loss = (damping / 100 * 0.3 + 0.2).astype(np.float32).astype(float)
    feedback, loss = np.repeat(feedback, 16), np.repeat(loss, 16)

    delay = comb_delays(room_scale, sample_rate).ravel()  # [P * 16], a lane for each comb
    rings = np.zeros((delay.max(), len(delay)))
    flat, lane = rings.ravel(), np.arange(len(delay))
    place, low = np.zeros_like(delay), np.zeros(len(delay))
    driven = np.repeat(x, 16, axis=0).T.copy()  # [T, P * 16]
    ears = np.empty((x.shape[1], len(x), 2))
    for n, sample in enumerate(driven):
        at = place * len(delay) + lane
        out = flat[at]
        low = out + (low - out) * loss
        flat[at] = sample + low * feedback
        place += 1
        place[place == delay] = 0
        ears[n] = out.reshape(len(x), 2, 8).sum(2)

    for ear, delays in enumerate(allpass_delays(sample_rate)):
        for m in delays:  # what is read was written m samples ago: m samples can go at a time
            ring = np.zeros((m, len(x)))
            for first in range(0, len(ears), m):
                part = ears[first : first + m, :, ear]
                out, ring = ring, part + 0.5 * ring[: len(part)]
                part[:] = out[: len(part)] - part
    return x + 0.5 * 0.015 * ears.sum(2).T


@pytest.fixture(scope="module")
def looped():
    """An impulse and noise in 65 rooms: what goes in and what the loop makes of it, `[130, T]`."""
    impulse = 0.25 * np.eye(1, N_LOOP)
    noise = np.random.default_rng(0).uniform(-0.25, 0.25, (1, N_LOOP))
    x = np.repeat(np.concatenate([impulse, noise]), len(TRIPLES), axis=0)
    return torch.from_numpy(x)[:, None], loop_over_samples(x, 2 * TRIPLES, 22_050)


def impulse_responses(triples, n_samples=59_049):
    """Without the direct sound, `[N, T]`."""
    x = torch.zeros(len(triples), 1, n_samples)
    x[..., 0] = 1
    return (reverberate(x, triples, exact=True) - x)[:, 0].double()


def decay_s(response):
    """Time of a fall by 60 dB, from that by 30 of the energy still to come (Schroeder 1965)."""
    to_come = response.square().flip(-1).cumsum(-1).flip(-1)
    level_db = 10 * torch.log10(to_come / to_come[..., :1])
    return 2 * ((level_db > -35).sum(-1) - (level_db > -5).sum(-1)) / 22_050


@pytest.mark.parametrize(("exact", "tolerance"), [(False, 3e-4), (True, 5e-5)])
@pytest.mark.parametrize(("name", "n_inputs"), [("reverb", 2), ("reverb_short", 3)])
def test_it_is_the_reverb_of_sox(name, n_inputs, exact, tolerance):
    triples = STORED[name]
    x = stored(name.replace("reverb", "input"), n_inputs)[torch.arange(len(triples)) % n_inputs]
    y = reverberate(x.float(), triples, exact=exact)
    assert worst_error(y, stored(name, len(triples))) < tolerance


@pytest.mark.parametrize(("exact", "tolerance"), [(False, 3e-4), (True, 5e-5)])
def test_it_is_the_loop_over_the_samples(looped, exact, tolerance):
    x, expected = looped
    assert worst_error(reverberate(x.float(), 2 * TRIPLES, exact=exact), expected) < tolerance


def test_it_is_the_loop_over_the_samples_of_a_whole_crop():
    triples, x = TRIPLES[1:3], np.random.default_rng(1).uniform(-0.25, 0.25, (2, 59_049))
    expected = loop_over_samples(x, triples, 22_050)
    x = torch.from_numpy(x).float()[:, None]
    assert worst_error(reverberate(x, triples), expected) < 3e-4
    assert worst_error(reverberate(x, triples, exact=True), expected) < 5e-5


@pytest.mark.parametrize("sample_rate", RATES)
def test_it_is_the_loop_over_the_samples_at_other_sample_rates(sample_rate):
    x = np.random.default_rng(2).uniform(-0.25, 0.25, (5, 8000))
    expected = loop_over_samples(x, TRIPLES[:5], sample_rate)
    x = torch.from_numpy(x).float()[:, None]
    assert worst_error(reverberate(x, TRIPLES[:5], sample_rate), expected) < 3e-4
    assert worst_error(reverberate(x, TRIPLES[:5], sample_rate, exact=True), expected) < 5e-5


@pytest.mark.parametrize("n_samples", [1, 10, 100, 1000, 5000])
def test_a_short_waveform_is_the_start_of_a_long_one(looped, n_samples):
    x, expected = looped
    y = reverberate(x[..., :n_samples].float(), 2 * TRIPLES)
    assert worst_error(y, expected[:, :n_samples]) < 3e-4


def test_a_long_waveform_rings_late_as_it_does_early(looped):
    x, expected = torch.zeros(5, 1, 300_000), torch.zeros(5, 300_000, dtype=torch.float64)
    x[..., 280_000] = 0.25
    expected[:, 280_000:] = torch.from_numpy(looped[1][:5])  # a later impulse rings later
    assert worst_error(reverberate(x, TRIPLES[:5]), expected) < 3e-4


def test_double_precision_is_used(looped):
    x, expected = looped  # the first room rings for so short a time that nothing wraps around
    y = reverberate(x[:1], TRIPLES[:1], exact=True)
    assert y.dtype == torch.float64
    assert worst_error(y, expected[:1]) < 1e-11


def test_it_is_not_exact_at_twice_the_cost_unless_asked():
    assert not Reverb(1, 22_050).exact
    assert Reverb(1, 22_050, exact=True).exact


def test_delays_are_those_computed_by_hand():
    hundred = torch.tensor([100])
    assert Room.of(hundred, hundred, hundred, 22_050).delays.tolist() == [COMBS[0] + COMBS[1]]
    assert comb_delays(np.array([100.0]), 22_050)[0].tolist() == COMBS
    assert allpass_delays(22_050).tolist() == ALLPASSES


def test_percentages_mean_the_feedback_and_damping_of_sox():
    percent = torch.tensor([0, 50, 99, 100])
    room = Room.of(percent, percent, percent, 22_050)
    expected = torch.tensor([0.3, 0.88168, 0.97928, 0.98], dtype=torch.float64)
    torch.testing.assert_close(room.feedback.flatten(), expected, rtol=0, atol=5e-6)
    expected = torch.tensor([0.2, 0.35, 0.497, 0.5], dtype=torch.float64)
    torch.testing.assert_close(room.damping.flatten(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("n_samples", [1, 10, 1000, 59_049])
def test_silence_stays_silent(n_samples, exact):
    y = reverberate(torch.zeros(5, 1, n_samples), TRIPLES[:5], exact=exact)
    assert torch.equal(y, torch.zeros(5, 1, n_samples))


def test_the_room_is_heard_only_once_sound_has_crossed_it():
    # The shortest comb of the largest room delays by 558 samples; 99 % are a little less.
    response = impulse_responses([(99, 0, 99)])[0]
    first = torch.nonzero(response.abs() > 1e-3).min().item()
    assert first == round(1116 / 2 * (0.1 + 0.9 * 0.99))


@pytest.mark.parametrize("reverberance", [40, 50, 60])  # with less, the all-passes ring longest
def test_it_rings_as_long_as_its_feedback_says(reverberance):
    # A comb of gain g and delay N falls by 60 dB in 3 N / log10(1 / g) samples (Schroeder 1962);
    # at low frequencies damping takes nothing away. The all-passes add a little.
    slow = torch.hann_window(400, dtype=torch.float64)[None, None]
    response = impulse_responses([(reverberance, 0, 50)])
    response = torch.nn.functional.conv1d(response[None], slow)[0]
    a = -1 / math.log(0.7)
    b = 100 / (math.log(0.02) * a + 1)
    gain = 1 - math.exp((reverberance - b) / (a * b))
    shortest, longest = (3 * n * 0.55 / 22_050 / math.log10(1 / gain) for n in (558, 809))
    assert shortest < decay_s(response).item() < 1.1 * longest


def test_it_rings_longer_with_reverberance_and_size_and_shorter_with_damping():
    for steps, sign in (
        ([(rv, 50, 50) for rv in (0, 25, 50, 75)], 1),
        ([(50, 50, room) for room in (0, 30, 60, 90)], 1),
        ([(50, damping, 50) for damping in (0, 30, 60, 90)], -1),
    ):
        times = decay_s(impulse_responses(steps).diff(n=2))  # of the treble, which is damped
        assert (sign * times.diff() > 0).all()


def test_echoes_become_dense():
    # Share of samples beyond the standard deviation, 1 where it is that of Gaussian noise
    # (Abel & Huang 2006).
    response = impulse_responses([(80, 20, 90)])[0]
    early, late = response[200:700], response[16_000:16_500]
    density = [(part.abs() > part.std()).double().mean() / 0.3173 for part in (early, late)]
    assert density[0] < 0.5
    assert density[1] > 0.8


def test_a_room_does_not_depend_on_the_other_rows():
    generator = torch.Generator().manual_seed(0)
    x = 0.25 * torch.randn(12, 1, 4000, generator=generator)
    order = torch.randperm(12, generator=generator)
    y = reverberate(x, TRIPLES[:12])
    turned = reverberate(x[order], [TRIPLES[k] for k in order])
    assert worst_error(turned, y[order].double()) < 1e-5
    assert worst_error(reverberate(x[7:8], TRIPLES[7:8]), y[7:8].double()) < 1e-5


def test_percentages_are_whole_numbers_from_0_to_99_all_equally_likely():
    n = 20_000
    drawn = Reverb(1, 22_050, generator=torch.Generator().manual_seed(0)).draw(n)
    assert list(drawn) == list(NAMES)
    for percent in drawn.values():
        values, counts = percent.unique(return_counts=True)
        assert values.tolist() == list(range(100))
        chi_square = ((counts - n / 100) ** 2 / (n / 100)).sum()
        assert abs(chi_square - 99) < 3 * math.sqrt(2 * 99)
    assert (torch.corrcoef(torch.stack(list(drawn.values()))) - torch.eye(3)).abs().max() < 0.03


def test_equal_bounds_fix_the_room():
    bounds = {f"{bound}_{name}": 10 * k for k, name in enumerate(NAMES) for bound in ("min", "max")}
    drawn = Reverb(1, 22_050, **bounds).draw(50)
    assert [value.unique().tolist() for value in drawn.values()] == [[0], [10], [20]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("low", "high"), [(-1, 50), (0, 101), (60, 40)])
def test_a_range_beyond_0_to_100_percent_is_refused(name, low, high):
    with pytest.raises(ValueError, match=f"{name}: got {low} to {high}, allowed: .* 0 to 100"):
        Reverb(1, 22_050, **{f"min_{name}": low, f"max_{name}": high})


def test_a_sample_rate_too_low_for_its_delays_is_refused():
    with pytest.raises(ValueError, match="sample_rate: got 999"):
        Reverb(1, 999)
    assert Reverb(1, 1000)(torch.ones(2, 1, 500)).isfinite().all()
