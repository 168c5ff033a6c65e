"""Pitch shift, held against tones that are known, and against stored outputs of SoX."""

import json
import math
from pathlib import Path

import pytest
import soundfile
import torch
import torchaudio

from clmr.augmentations import PitchShift
from clmr.augmentations.pitch_shift import EDGE
from clmr.augmentations.wsola import Segmentation, find_splices

DATA = Path(__file__).parents[1] / "data"
T = 59_049
CENTS = [-700, -555, -301, -100, -7, 1, 50, 123, 400, 611, 700]


def shifted(x, cents, sample_rate=22_050, **bounds):
    """Each row `[N, T]` by its own number of cents."""
    cents = torch.as_tensor(cents).expand(len(x))
    return PitchShift(1, sample_rate, **bounds).apply(x[:, None], {"cents": cents})[:, 0]


def tone(frequency_hz, sample_rate=22_050, n_samples=T):
    """`[N, T]`, of float64 `[N]`."""
    frequency_hz = torch.as_tensor(frequency_hz, dtype=torch.float64).reshape(-1, 1)
    t = torch.arange(n_samples, dtype=torch.float64) / sample_rate
    return (0.25 * torch.sin(2 * math.pi * frequency_hz * t)).float()


def noise(n_rows, n_samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(n_rows, n_samples, generator=generator)


def rms(x):
    return x.double().square().mean(-1).sqrt()


def cents_from(y, frequency_hz, sample_rate=22_050):
    """How far the strongest frequency of each row's inner part is from another, in cents."""
    y = y[:, 6000:-6000].double()
    n_fft = 8 * y.shape[1]
    level = torch.fft.rfft(y * torch.hann_window(y.shape[1], dtype=y.dtype), n_fft).abs().log()
    peak = level.argmax(dim=1)
    left, top, right = level.gather(1, peak[:, None] + torch.arange(-1, 2)).T
    found = peak + (left - right) / (left - 2 * top + right) / 2  # of a parabola through three
    return 1200 * torch.log2(found * sample_rate / n_fft / frequency_hz)


@pytest.fixture(scope="module")
def by_sox():
    """Ours and SoX's of the same music, `[10, T]` each."""
    cents = json.loads((DATA / "parameters.json").read_text())["pitch"]
    inputs, outputs = (
        torch.from_numpy(soundfile.read(DATA / f"{name}.flac", dtype="float32")[0]).view(-1, T)
        for name in ("input", "pitch")
    )
    x = inputs[torch.arange(len(cents)) % 2]
    return shifted(x, torch.tensor(cents)), outputs


def test_music_comes_out_as_that_of_sox(by_sox):
    ours, theirs = by_sox
    snr_db = 20 * torch.log10(rms(theirs) / rms(ours - theirs))
    assert snr_db.median() >= 60
    assert snr_db.quantile(0.1) >= 45


def test_music_sounds_as_that_of_sox(by_sox):
    mel = torchaudio.transforms.MelSpectrogram(22_050, n_fft=1024, n_mels=64)
    spectra = [mel(y) for y in by_sox]
    levels_db = [10 * torch.log10(spectrum + 1e-8 * spectra[1].max()) for spectrum in spectra]
    distance_db = (levels_db[0] - levels_db[1]).abs().mean(dim=(1, 2))
    assert distance_db.median() < 0.1
    assert distance_db.max() < 0.2


@pytest.mark.parametrize("frequency_hz", [220, 440, 1000, 3000])
def test_a_tone_moves_by_the_drawn_cents(frequency_hz):
    cents = torch.tensor(CENTS)
    y = shifted(tone(frequency_hz).expand(len(cents), -1), cents)
    expected_hz = frequency_hz * 2 ** (cents.double() / 1200)
    assert cents_from(y, expected_hz).abs().max() < 0.5
    assert (rms(y[:, 6000:-6000]) / rms(tone(frequency_hz)) - 1).abs().max() < 0.02


@pytest.mark.parametrize("sample_rate", [8000, 16_000, 44_100, 48_000])
def test_a_tone_moves_by_the_drawn_cents_at_other_sample_rates(sample_rate):
    cents = torch.tensor([-700, -123, 300, 700])
    y = shifted(tone(440, sample_rate).expand(len(cents), -1), cents, sample_rate)
    expected_hz = 440 * 2 ** (cents.double() / 1200)
    assert cents_from(y, expected_hz, sample_rate).abs().max() < 0.5


def test_a_long_tone_moves_by_the_drawn_cents_all_along():
    cents = torch.tensor([-700, 700])
    y = shifted(tone(440, n_samples=300_000).expand(2, -1), cents)
    for part in (y[:, :100_000], y[:, -100_000:]):
        assert cents_from(part, 440 * 2 ** (cents.double() / 1200)).abs().max() < 0.5


def test_two_octaves_are_possible_in_both_directions():
    cents = torch.tensor([-2400, -1200, 1200, 2400])
    y = shifted(tone(880).expand(4, -1), cents, min_semitones=-24, max_semitones=24)
    assert cents_from(y, 880 * 2 ** (cents.double() / 1200)).abs().max() < 0.5


def test_a_single_segment_is_the_tone_at_the_ratio_to_six_digits():
    # At this rate a segment is longer than the waveform.
    cents = torch.tensor([-700, -555, -1, 1, 123, 700])
    ratio = [float(f"{2 ** (-c / 1200):.6g}") for c in cents.tolist()]
    cycles = 0.05 / torch.tensor(ratio, dtype=torch.float64)
    y = shifted(tone(0.05, sample_rate=1).double().expand(6, -1), cents, sample_rate=10**6)
    inner = slice(1000, 35_000)
    error = (y - tone(cycles, sample_rate=1))[:, inner]
    assert (rms(error) < 3e-4 * rms(y[:, inner])).all()


def test_segments_are_cut_where_the_search_says_and_each_fades_into_the_next():
    # An octave up every other sample of the stretched waveform is heard, and none between.
    cut, n_samples, n_segments = Segmentation.at(22_050), 20_000, 26
    spectrum = torch.fft.rfft(noise(1, n_samples).double())
    spectrum[:, n_samples // 5 :] = 0
    x = torch.fft.irfft(spectrum, n_samples)
    speed = torch.tensor([0.5], dtype=torch.float64)
    starts = find_splices(x, speed, [n_segments], cut)[0].tolist()
    padded = torch.nn.functional.pad(x[0], (1000, 4000))
    stretched = torch.zeros(n_segments * cut.hop + cut.overlap, dtype=x.dtype)
    fade = torch.arange(cut.overlap) / cut.overlap
    for s, start in enumerate(starts):
        part = padded[1000 + start :][: cut.segment].clone()
        if s:
            part[: cut.overlap] *= fade
        stretched[s * cut.hop :][: cut.segment - cut.overlap] += part[: cut.hop]
        stretched[(s + 1) * cut.hop :][: cut.overlap] += part[cut.hop :] * (1 - fade)
    y = shifted(x, 1200, max_semitones=12)
    inner = slice(100, -1000)
    assert rms((y[0] - stretched[::2][:n_samples])[inner]) < 5e-4 * rms(y[0])


@pytest.mark.parametrize("cents", [-700, -300, 300, 700])
def test_half_of_the_amplitude_is_left_in_the_middle_of_the_edge_of_the_band(cents):
    x = tone((1 - EDGE / 2) * 11_025 * min(1, 2 ** (-cents / 1200)))
    assert rms(shifted(x, cents)).item() == pytest.approx(0.5 * rms(x).item(), rel=0.1)


@pytest.mark.parametrize(("cents", "n_samples"), [(-2400, 12_344), (-2000, 9795), (-700, 23_133)])
def test_where_segments_end_with_the_waveform_all_of_it_is_read(cents, n_samples):
    x = tone(3000, n_samples=n_samples)
    y = shifted(x, cents, min_semitones=-24, max_semitones=24)
    assert y.shape == x.shape
    assert rms(y[:, -500:]).item() == pytest.approx(rms(x).item(), rel=0.1)


@pytest.mark.parametrize("n_samples", [100, 1000, 1500])
def test_what_is_shorter_than_a_segment_is_played_faster_or_slower(n_samples):
    # One segment is all there is: no splice, and silence where its end has been passed.
    cents, frequency_hz = torch.tensor([-700, -250, 250, 700]), 700
    expected_hz = frequency_hz * 2 ** (cents.double() / 1200)
    y = shifted(tone(frequency_hz, n_samples=n_samples).expand(4, -1), cents)
    inner = slice(n_samples // 5, int(n_samples / 2 ** (7 / 12) * 0.9))
    expected = tone(expected_hz, n_samples=n_samples)
    assert (rms((y - expected)[:, inner]) < 0.05 * rms(expected[:, inner])).all()


@pytest.mark.parametrize("n_samples", [1, 2, 10])
def test_a_few_samples_stay_finite_and_no_louder(n_samples):
    y = shifted(noise(3, n_samples), torch.tensor([-700, 7, 700]))
    assert y.shape == (3, n_samples)
    assert y.isfinite().all()
    assert y.abs().max() < 2 * noise(3, n_samples).abs().max()


def test_the_level_of_noise_stays_over_the_whole_length():
    cents = torch.tensor([-700, -300, -1, 1, 100])  # up, some of the band is lost: here 6 %
    y = shifted(noise(1, T).expand(5, -1), cents)
    parts = torch.stack([rms(part) for part in y.tensor_split(8, dim=1)])
    assert (parts / 0.1 - 1).abs().max() < 0.1


def test_an_onset_moves_by_no_more_than_a_segment_is_stretched_and_searched():
    # A segment of 82 ms begins within 7.4 ms of where it should, and drifts by 1 - speed.
    cents = torch.linspace(-700, 700, 57).long()
    x = 0.01 * noise(1, 2 * 22_050)
    x[:, 22_050:] += noise(1, 22_050)
    onset_ms = ((shifted(x.expand(57, -1), cents).abs() > 0.03).int().argmax(1) / 22.05) - 1000
    drift_ms = 82 * (2 ** (-cents.double() / 1200) - 1)
    assert (onset_ms > drift_ms.clamp(max=0) - 8).all()
    assert (onset_ms < drift_ms.clamp(min=0) + 8).all()
    assert onset_ms[cents.abs() <= 100].abs().max() < 15


@pytest.mark.parametrize(("cents", "frequency_hz"), [(700, 9000), (700, 7400), (300, 10_000)])
def test_what_would_alias_is_removed(cents, frequency_hz):
    x = tone(frequency_hz) * torch.hann_window(T)
    assert frequency_hz * 2 ** (cents / 1200) > 22_050 / 2
    assert rms(shifted(x, cents)) < 1e-3 * rms(x)


@pytest.mark.parametrize(("cents", "frequency_hz"), [(700, 6700), (-700, 10_000), (1, 10_000)])
def test_what_would_not_alias_stays(cents, frequency_hz):
    x = tone(frequency_hz)
    y = shifted(x, cents)
    assert abs(cents_from(y, frequency_hz * 2 ** (cents / 1200)).item()) < 0.5
    assert rms(y).item() == pytest.approx(rms(x).item(), rel=0.03)


def test_no_shift_is_the_identity_bit_for_bit():
    x = noise(3, 20_000)
    y = shifted(x, torch.tensor([0, 100, 0]))
    assert torch.equal(y[[0, 2]], x[[0, 2]])
    assert not torch.equal(y[1], x[1])
    assert torch.equal(shifted(x, 0), x)


@pytest.mark.parametrize("n_samples", [1, 1000, T])
def test_silence_stays_silent(n_samples):
    silence = torch.zeros(len(CENTS), n_samples)
    assert torch.equal(shifted(silence, torch.tensor(CENTS)), silence)


def test_double_precision_is_used():
    x = noise(4, 20_000).double()
    cents = torch.tensor([-700, -1, 350, 700])
    y = shifted(x, cents)
    assert y.dtype == torch.float64
    assert (rms(y - shifted(x.float(), cents)) < 1e-4 * rms(y)).all()
    scaled = shifted(x * 2e-9, cents) / 2e-9
    assert (rms(scaled - y) < 1e-9 * rms(y)).all()  # linear, once the splices are the same


def test_a_row_does_not_depend_on_its_batch():
    cents = torch.tensor([700, -700, 0, 13, 250, -401, -402])
    x = noise(len(cents), 20_000)
    together = shifted(x, cents)
    for k in range(len(cents)):
        alone = shifted(x[k : k + 1], cents[k : k + 1])
        assert (alone[0] - together[k]).abs().max() < 1e-6


def test_rows_that_are_resampled_at_different_times_are_the_same(monkeypatch):
    cents = torch.tensor([700, -700, 0, 13, 250, -401, -402])
    x = noise(len(cents), 20_000)
    together = shifted(x, cents)
    monkeypatch.setattr("clmr.augmentations.pitch_shift.RESAMPLED_AT_ONCE", 40_000)
    assert (shifted(x, cents) - together).abs().max() < 1e-6


def test_shifts_are_whole_cents_from_minus_to_plus_700_all_equally_likely():
    n = 20_000
    cents = PitchShift(1, 22_050, generator=torch.Generator().manual_seed(0)).draw(n)["cents"]
    counts = torch.bincount(cents + 700, minlength=1401).double()
    assert not cents.is_floating_point()
    assert len(counts) == 1401
    assert counts[0] > 0
    assert counts[-1] > 0
    chi_square = ((counts - n / 1401) ** 2 / (n / 1401)).sum()
    assert abs(chi_square - 1400) < 3 * math.sqrt(2 * 1400)
    coarse = torch.histc(cents.double(), bins=3, min=-700.5, max=700.5) / n  # 467 cents each
    assert (coarse - 1 / 3).abs().max() < 3 * math.sqrt(1 / 3 * 2 / 3 / n)


@pytest.mark.parametrize("semitones", [-3, 0, 2.5])
def test_equal_bounds_fix_the_shift(semitones):
    cents = PitchShift(1, 22_050, semitones, semitones).draw(50)["cents"]
    assert cents.unique().tolist() == [100 * semitones]


@pytest.mark.parametrize(("low", "high"), [(-25, 0), (0, 25), (3, 2)])
def test_a_shift_beyond_two_octaves_is_refused(low, high):
    with pytest.raises(ValueError, match=f"semitones: got {low} to {high}, allowed: .* -24 to 24"):
        PitchShift(1, 22_050, low, high)


def test_a_sample_rate_too_low_for_its_segments_is_refused():
    with pytest.raises(ValueError, match="sample_rate: got 999"):
        PitchShift(1, 999)
    assert PitchShift(1, 1000)(noise(2, 500)[:, None]).isfinite().all()


@pytest.mark.parametrize("n_samples", [61_440, 65_536])  # at which an FFT needs no padding
def test_the_end_does_not_ring_into_the_beginning(n_samples):
    x = torch.zeros(1, n_samples)
    x[0, -3000:] = tone(3150, n_samples=3000)
    assert shifted(x, 500)[0, :1000].abs().max() < 1e-6
