"""WSOLA: lengths, and splices where a direct search finds them."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from clmr.augmentations.wsola import Segmentation, find_splices

DATA = Path(__file__).parents[1] / "data"
SEGMENT, SEARCH, OVERLAP, HOP = 1808, 324, 264, 1544  # at 22,050 Hz, of SoX
N_SAMPLES = 59_049
N_SEGMENTS = 26


def music(n_rows):
    """Pieces of stored music `[N, T]`, each from another sample on."""
    line = torch.from_numpy(soundfile.read(DATA / "input.flac", dtype="float32")[0])
    return torch.stack([line.roll(-4919 * k)[:N_SAMPLES] for k in range(n_rows)])


def noise(n_rows):
    return 0.1 * torch.randn(n_rows, N_SAMPLES, generator=torch.Generator().manual_seed(0))


def chirps(n_rows):
    """Tones that rise: near periods are alike, never the same."""
    t = torch.arange(N_SAMPLES, dtype=torch.float64) / 22_050
    return torch.stack([torch.sin(2000 * (1 + 0.1 * k + t) * t) for k in range(n_rows)]).float()


def gated_music(n_rows):
    """Music that is now and then 80 dB quieter, where rounding beside it might drown it."""
    loud = torch.rand(n_rows, 60, generator=torch.Generator().manual_seed(0)) < 0.5
    gate = torch.where(loud, 1.0, 1e-4).repeat_interleave(1000, dim=1)
    return music(n_rows) * gate[:, :N_SAMPLES]


def splices_of(x, speed):
    n_segments = [N_SEGMENTS] * len(x)
    return find_splices(x, speed, n_segments, Segmentation.at(22_050)).numpy()


def share_of_best(x, speed, splices):
    """Share of splices that are where the sum of squared differences is least, in float64."""
    hits = []
    for row, f, chosen in zip(x.double().numpy(), speed.tolist(), splices, strict=True):
        padded = np.pad(row, (SEARCH // 2, 3000))
        for s in range(1, N_SEGMENTS):
            first = int(f * s * HOP + 0.5)
            if first >= N_SAMPLES:
                break
            end = chosen[s - 1] + SEARCH // 2 + HOP
            template = padded[end : end + OVERLAP]
            part = padded[first : first + SEARCH + OVERLAP - 1]
            windows = np.lib.stride_tricks.sliding_window_view(part, OVERLAP)
            best = np.argmin(((windows - template) ** 2).sum(axis=1))
            hits.append(chosen[s] == first + best - SEARCH // 2)
    assert len(hits) > 20 * len(x)
    return np.mean(hits)


@pytest.mark.parametrize("waves", [music, gated_music, noise, chirps])
def test_splices_are_where_a_direct_search_finds_them(waves):
    x, speed = waves(24), torch.linspace(2 ** (-7 / 12), 2 ** (7 / 12), 24, dtype=torch.float64)
    splices = splices_of(x, speed)
    assert (splices[:, 0] == 0).all()
    assert share_of_best(x, speed, splices) >= 0.999


def test_a_row_that_needs_less_segments_is_searched_as_if_alone():
    x, speed = music(3), torch.tensor([0.7, 1.0, 1.4], dtype=torch.float64)
    cut = Segmentation.at(22_050)
    together = find_splices(x, speed, [55, 39, 28], cut)
    for k, n in enumerate((55, 39, 28)):
        alone = find_splices(x[k : k + 1], speed[k : k + 1], [n], cut)
        assert torch.equal(together[k, :n], alone[0])


def test_in_silence_the_first_of_all_places_is_taken():
    speed = torch.tensor([1.25], dtype=torch.float64)
    expected = [0, *(int(1.25 * s * HOP + 0.5) - SEARCH // 2 for s in range(1, N_SEGMENTS))]
    splices = splices_of(torch.zeros(1, N_SAMPLES), speed)[0]
    assert splices.tolist() == np.minimum(expected, N_SAMPLES - SEARCH // 2).tolist()


def test_lengths_are_those_of_sox():
    cut = Segmentation.at(22_050)
    assert cut == (SEGMENT, OVERLAP, SEARCH)
    assert cut.hop == HOP


@pytest.mark.parametrize("sample_rate", [1000, 8000, 11_025, 16_000, 37_800, 44_100, 48_000])
def test_lengths_are_82_ms_and_shares_of_it_at_other_sample_rates(sample_rate):
    cut = Segmentation.at(sample_rate)
    samples = 0.082 * sample_rate
    assert abs(cut.segment - samples) <= 0.5
    assert abs(cut.search - samples / 5.587) <= 0.5
    assert cut.overlap % 8 == 0
    assert -4.5 <= samples / 6.833 - cut.overlap < 3.5
