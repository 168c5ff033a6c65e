"""High- and low-pass, held against julius and against what a filter is for."""

import math

import julius
import pytest
import torch

from clmr.augmentations import HighLowPass

T = 59_049


def filtered(x, high_pass, cutoffs_hz, sample_rate=22_050, **bounds):
    """Each row `[N, 1, T]` with its own cut-off."""
    high_pass = torch.as_tensor(high_pass).expand(len(x))
    cutoffs_hz = torch.as_tensor(cutoffs_hz).expand(len(x))
    parameters = {"high_pass": high_pass, "cutoff_hz": cutoffs_hz}
    return HighLowPass(1, sample_rate, **bounds).apply(x, parameters)


def by_julius(x, high_pass, cutoffs_hz, sample_rate=22_050):
    rows = []
    for row, high, cutoff_hz in zip(x, high_pass, cutoffs_hz, strict=True):
        kind = julius.HighPassFilter if high else julius.LowPassFilter
        rows.append(kind(float(cutoff_hz) / sample_rate)(row))
    return torch.stack(rows)


def waves(n_rows, n_samples, dtype=torch.float32):
    """Noise on an offset, so that the ends count, at a quarter of full scale."""
    generator = torch.Generator().manual_seed(n_samples)
    x = torch.rand(n_rows, 1, n_samples, generator=generator, dtype=dtype)
    return 0.25 * (x * 1.2 - 0.2)


def assert_close(y, expected):
    assert ((y - expected).norm(dim=-1) / expected.norm(dim=-1)).max() < 2e-5
    assert (y - expected).abs().max() < 1e-6


def tone(frequency_hz, sample_rate=22_050, n_samples=T):
    return torch.sin(2 * math.pi * frequency_hz / sample_rate * torch.arange(n_samples))[None, None]


def level_db(y, x):
    """Of the inner part, relative to what went in."""
    inner = slice(2000, -2000)
    return 10 * torch.log10(y[..., inner].square().mean(-1) / x[..., inner].square().mean(-1))


@pytest.mark.parametrize("high_pass", [False, True])
def test_it_is_the_filter_of_julius_at_every_cutoff(high_pass):
    low, high = (200, 1200) if high_pass else (2200, 4000)
    cutoffs_hz = torch.linspace(low, high, 15)
    x, kind = waves(15, 20_000), [high_pass] * 15
    assert_close(filtered(x, high_pass, cutoffs_hz), by_julius(x, kind, cutoffs_hz))


@pytest.mark.parametrize("n_samples", [10, 100, 883, 1000, 3647, 3648, T, 300_000])
def test_it_is_the_filter_of_julius_at_every_length_ends_included(n_samples):
    x, cutoffs_hz, kind = waves(4, n_samples), torch.tensor([200, 741.5, 2200, 4000]), [1, 1, 0, 0]
    y = filtered(x, torch.tensor(kind, dtype=torch.bool), cutoffs_hz)
    assert_close(y, by_julius(x, kind, cutoffs_hz))


@pytest.mark.parametrize("sample_rate", [8000, 16_000, 44_100, 48_000])
def test_it_is_the_filter_of_julius_at_other_sample_rates(sample_rate):
    x, cutoffs_hz, kind = waves(4, 10_000), torch.tensor([200, 1200, 2200, 3999]), [1, 1, 0, 0]
    y = filtered(x, torch.tensor(kind, dtype=torch.bool), cutoffs_hz, sample_rate)
    assert_close(y, by_julius(x, kind, cutoffs_hz, sample_rate))


def test_it_is_the_filter_of_julius_over_other_ranges():
    bounds = {"lowpass_freq_low": 60, "highpass_freq_low": 50, "highpass_freq_high": 11_025}
    x, cutoffs_hz, kind = waves(3, 10_000), torch.tensor([50.0, 60, 11_025]), [1, 0, 1]
    y = filtered(x, torch.tensor(kind, dtype=torch.bool), cutoffs_hz, **bounds)
    assert_close(y[:2], by_julius(x[:2], kind[:2], cutoffs_hz[:2]))
    assert y[2].abs().max() < 1e-6  # nothing is above half of the sample rate
    bounds = {"lowpass_freq_low": 60, "highpass_freq_low": 500}
    y = filtered(x, False, torch.tensor([60.0, 61, 200]), **bounds)
    assert_close(y, by_julius(x, [0] * 3, torch.tensor([60.0, 61, 200])))


def test_double_precision_is_used():
    x, cutoffs_hz = waves(4, 5000, torch.float64), torch.tensor([300.0, 1000, 2500, 4000])
    kind = [True, True, False, False]
    y = filtered(x, torch.tensor(kind), cutoffs_hz)
    assert y.dtype == torch.float64
    torch.testing.assert_close(y[0, 0], reference_in_float64(x[0, 0], 300), rtol=0, atol=1e-12)


def reference_in_float64(x, cutoff_hz):
    """The high-pass tap by tap: delta less a sinc under a Hann window of 8 zero crossings."""
    c = cutoff_hz / 22_050
    half = int(8 / c / 2)
    t = torch.arange(-half, half + 1, dtype=torch.float64)
    taps = torch.hann_window(2 * half + 1, periodic=False, dtype=torch.float64)
    taps = taps * torch.sinc(2 * c * t)
    taps /= taps.sum()
    ends = torch.ones(half, dtype=torch.float64)
    long = torch.cat([x[0] * ends, x, x[-1] * ends])
    return x - torch.nn.functional.conv1d(long[None, None], taps[None, None])[0, 0]


@pytest.mark.parametrize("cutoff_hz", [2200, 3000, 4000])
def test_the_low_pass_leaves_500_hz_and_kills_8_khz(cutoff_hz):
    low, high = tone(500), tone(8000)
    assert level_db(filtered(low, False, cutoff_hz), low).abs() < 0.1
    assert level_db(filtered(high, False, cutoff_hz), high) < -58


@pytest.mark.parametrize("cutoff_hz", [200, 700, 1200])
def test_the_high_pass_leaves_8_khz_and_kills_what_is_far_below(cutoff_hz):
    low, high = tone(cutoff_hz / 10), tone(8000)
    assert level_db(filtered(high, True, cutoff_hz), high).abs() < 0.1
    assert level_db(filtered(low, True, cutoff_hz), low) < -60


@pytest.mark.parametrize(("high_pass", "cutoff_hz"), [(False, 3000), (True, 700)])
def test_half_of_the_amplitude_passes_at_the_cutoff(high_pass, cutoff_hz):
    x = tone(cutoff_hz)
    assert level_db(filtered(x, high_pass, cutoff_hz), x).item() == pytest.approx(-6.02, abs=0.1)


def test_what_does_not_change_passes_the_low_pass_and_not_the_high_pass():
    x = torch.full((2, 1, T), 0.7)
    y = filtered(x, torch.tensor([False, True]), torch.tensor([3000.0, 300]))
    torch.testing.assert_close(y[0], x[0], rtol=0, atol=1e-6)
    assert y[1].abs().max() < 1e-6


@pytest.mark.parametrize(("high_pass", "cutoff_hz"), [(False, 2500), (True, 300)])
def test_an_impulse_rings_before_as_it_does_after(high_pass, cutoff_hz):
    x = torch.zeros(1, 1, 4001)
    x[..., 2000] = 1
    y = filtered(x, high_pass, cutoff_hz)
    torch.testing.assert_close(y, y.flip(-1), rtol=0, atol=1e-6)
    assert y.abs().argmax() == 2000


def test_cutoffs_are_uniform_over_the_range_of_a_kind_that_a_fair_coin_chooses():
    n = 20_000
    drawn = HighLowPass(1, 22_050, generator=torch.Generator().manual_seed(0)).draw(n)
    high_pass, cutoff_hz = drawn["high_pass"], drawn["cutoff_hz"]
    assert abs(high_pass.double().mean() - 0.5) < 3 * 0.5 / math.sqrt(n)
    for own_hz, low, high in (
        (cutoff_hz[high_pass], 200, 1200),
        (cutoff_hz[~high_pass], 2200, 4000),
    ):
        assert low <= own_hz.min()
        assert own_hz.max() <= high
        counts = torch.histc(own_hz, bins=10, min=low, max=high)
        assert counts.sum() == len(own_hz)
        assert (counts / len(own_hz) - 0.1).abs().max() < 3 * math.sqrt(0.1 * 0.9 / len(own_hz))


def test_equal_bounds_fix_the_cutoffs():
    drawn = HighLowPass(1, 22_050, 3000, 3000, 400, 400).draw(50)
    assert drawn["cutoff_hz"].tolist() == [400 if high else 3000 for high in drawn["high_pass"]]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"lowpass_freq_low": 0}, "lowpass_freq: got 0 to 4000, allowed: .* 1 to 11025"),
        ({"lowpass_freq_high": 11_026}, "lowpass_freq: got 2200 to 11026"),
        ({"lowpass_freq_low": 5000}, "lowpass_freq: got 5000 to 4000"),
        ({"highpass_freq_low": 0}, "highpass_freq: got 0 to 1200, allowed: .* 1 to 11025"),
        ({"highpass_freq_high": 12_000}, "highpass_freq: got 200 to 12000"),
        ({"highpass_freq_low": 2000}, "highpass_freq: got 2000 to 1200"),
    ],
)
def test_cutoffs_beyond_half_of_the_sample_rate_are_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        HighLowPass(1, 22_050, **bounds)
