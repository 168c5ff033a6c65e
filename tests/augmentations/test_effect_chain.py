"""Our stand-in for wavaugment's EffectChain, against outputs of SoX itself."""

import importlib
import math
import sys

import pytest
import torch

from clmr.augmentations.effect_chain import EffectChain, register_effect_chain

RATE = {"rate": 22_050}
# What wavaugment 0.2 gave through torchaudio 2.8 and libsox 14.4.2, every 1,300th sample of
# `sweep` from the 500th on: ears of reverb(80, 20, 100), at full scale; pitch at half of it.
LEFT_EAR = [-0.980152, -0.789086, -0.737339, -0.572237, -1.0, -0.117536, 1.0, 0.604124,
            -1.0, -0.431613, 1.0, -1.0, 1.0, -0.642808, -0.579834]  # fmt: skip
RIGHT_EAR = [-0.980152, -0.805336, -0.991134, -0.899406, -0.63578, -0.636156, 0.629248, 0.781815,
             -1.0, 1.0, -0.499843, -0.822389, 1.0, -0.899805, -0.252268]  # fmt: skip
PITCH = {
    300: [0.230376, -0.121346, 0.355964, -0.375668, -0.499804, 0.118322, -0.15813, 0.437096,
          0.191244, -0.489944, 0.396004, 0.497634, 0.253953, -0.375405, -0.131973],
    -700: [-0.49944, 0.24983, 0.422934, 0.498504, 0.384241, 0.252166, 0.09799, 0.403791,
           0.287732, -0.316176, -0.349339, -0.1142, -0.356264, 0.009679, 0.274524],
}  # fmt: skip
SAMPLED = slice(500, None, 1300)


def sweep(level):
    """From 100 to 1,914 Hz within 20,000 samples: nothing repeats, so that no splices tie."""
    t = torch.arange(20_000, dtype=torch.float64) / 22_050
    return (level * torch.sin(2 * math.pi * (100 * t + 1000 * t**2))).float()[None]


def test_reverb_gives_the_two_ears_of_sox_clipped_each_by_itself():
    y = EffectChain().reverb(80, 20, 100).apply(sweep(1), RATE)
    assert y.shape == (2, 20_000)
    expected = torch.tensor([LEFT_EAR, RIGHT_EAR])
    torch.testing.assert_close(y[:, SAMPLED], expected, rtol=0, atol=5e-5)


def test_reverb_mixed_to_mono_is_the_mean_of_the_clipped_ears():
    y = EffectChain().reverb(80, 20, 100).channels(1).apply(sweep(1), RATE)
    assert y.shape == (1, 20_000)
    expected = torch.tensor([LEFT_EAR, RIGHT_EAR]).mean(dim=0, keepdim=True)
    torch.testing.assert_close(y[:, SAMPLED], expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("cents", PITCH)
def test_pitch_is_that_of_sox_at_the_same_length(cents):
    y = EffectChain().pitch(cents).rate(22_050).apply(sweep(0.5), RATE)
    assert y.shape == (1, 20_000)
    torch.testing.assert_close(y[:, SAMPLED], torch.tensor([PITCH[cents]]), rtol=0, atol=2e-3)


def test_what_goes_into_the_first_effect_is_clipped():
    x = torch.tensor([[3.0, -0.25, -1.5], [-0.5, 0.5, 0.25]])
    assert EffectChain().channels(1).apply(x, RATE).tolist() == [[0.25, 0.125, -0.375]]


@pytest.mark.parametrize("level", [0.5, 4])
def test_no_shift_the_same_rate_and_the_same_channels_change_nothing_but_by_clipping(level):
    x = level * sweep(1)
    y = EffectChain().pitch(0).rate(22_050).channels(1).apply(x, RATE, RATE | {"channels": 1})
    assert torch.equal(y, x.clamp(-1, 1))


def test_effects_come_in_the_order_in_which_they_were_asked_for():
    x = sweep(0.25)
    first_pitch = EffectChain().pitch(300).apply(x, RATE)
    both = EffectChain().pitch(300).reverb(80, 20, 100).channels(1).apply(x, RATE)
    reverb = EffectChain().reverb(80, 20, 100).channels(1)
    assert torch.equal(both, reverb.apply(first_pitch, RATE))
    assert not torch.allclose(both, EffectChain().pitch(300).apply(reverb.apply(x, RATE), RATE))


def test_the_input_is_left_as_it_was_and_may_come_without_a_channel():
    x = 2 * sweep(1)[0]
    y = EffectChain().channels(1).apply(x, RATE)
    assert y.shape == (1, 20_000)
    assert torch.equal(x, 2 * sweep(1)[0])


@pytest.mark.parametrize(
    ("effects", "message"),
    [
        (lambda chain: chain.rate(16_000), "rate: got 16000 Hz for audio at 22050 Hz"),
        (lambda chain: chain.channels(2), "channels: got 2, of 1; allowed: 1"),
        (lambda chain: chain.reverb(0, 0, 0).pitch(1), "pitch: got 2 channels, allowed: 1"),
        (lambda chain: chain.reverb(0, 0, 0).reverb(1, 1, 1), "reverb: got 2 channels"),
        (lambda chain: chain.pitch(2401), "pitch: got 2401, allowed: .* from -2400 to 2400"),
        (lambda chain: chain.pitch(0.5), "pitch: got 0.5, allowed: whole"),
        (lambda chain: chain.pitch(lambda: 100), "pitch: got <function"),
        (lambda chain: chain.reverb(101, 0, 0), "reverberance: got 101, .* from 0 to 100"),
        (lambda chain: chain.reverb(0, -1, 0), "damping: got -1"),
        (lambda chain: chain.reverb(0, 0, 100.5), "room_scale: got 100.5"),
    ],
)
def test_what_it_cannot_do_is_refused(effects, message):
    with pytest.raises(ValueError, match=message):
        effects(EffectChain()).apply(sweep(0.1)[:, :2000], RATE)


def test_another_rate_of_the_result_is_refused():
    with pytest.raises(ValueError, match="target_info: got 8000 Hz for audio at 22050 Hz"):
        EffectChain().pitch(1).apply(sweep(0.1), RATE, {"rate": 8000})


def test_an_effect_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(AttributeError, match="no effect 'dither', only pitch, rate, reverb and"):
        EffectChain().pitch(100).dither()


# As the module `augment`.


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that puts a package `augment` of the given source where Python finds it first."""
    modules = {name: sys.modules.pop(name) for name in list(sys.modules)
               if name.split(".")[0] == "augment"}  # fmt: skip

    def write(source):
        (tmp_path / "augment").mkdir()
        (tmp_path / "augment" / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)

    yield write
    sys.modules.pop("augment", None)
    sys.modules.update(modules)


def test_the_original_is_used_where_it_can_be_imported(package):
    package("EffectChain = 'the original'")
    register_effect_chain()
    assert importlib.import_module("augment").EffectChain == "the original"


@pytest.mark.parametrize(
    "source",
    [
        "import torchaudio_of_another_version.sox_effects",
        "raise OSError('libsox.so: cannot open shared object file')",
        "raise RuntimeError('sox extension is disabled. (TORCHAUDIO_USE_SOX=0)')",
    ],
)
def test_ours_is_used_where_the_original_finds_no_sox(package, source):
    package(source)
    register_effect_chain()
    assert importlib.import_module("augment").EffectChain is EffectChain


def test_it_says_which_it_is_and_why(package, caplog):
    package("raise OSError('libsox.so: not there')")
    with caplog.at_level("INFO", "clmr"):
        register_effect_chain()
        register_effect_chain()
    assert caplog.messages == [
        "no SoX (libsox.so: not there): pitch and reverb are computed as it would"
    ]


def test_a_bug_in_the_original_is_not_hidden(package):
    package("1 / 0")
    with pytest.raises(ZeroDivisionError):
        register_effect_chain()
