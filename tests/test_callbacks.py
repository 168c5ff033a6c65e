"""What is said beside the views, against what is heard in them, both read from the event file."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from fixtures_runs import config_of, events_of

from clmr.augmentations import AUGMENTATIONS
from clmr.callbacks import ViewsLogger
from clmr.curves import board
from clmr.modules import ContrastiveLearning

N_STEPS = 6
OFF = dict.fromkeys((f"transforms_{name}" for name in AUGMENTATIONS), 0.0)
VIEWS = ("i", "j")
POLARITY = "| step | parameters |\n|---|---|\n| polarity |  |"


def crops(step, dtype=torch.int16):
    generator = torch.Generator().manual_seed(step)
    pcm = torch.randint(-8000, 8000, (3, 2, 9000), generator=generator, dtype=torch.int16)
    return pcm if dtype == torch.int16 else pcm / 2**15


def log_views(folder, dtype=torch.int16, batch_idx=0, is_global_zero=True, **changed):
    """Log the first batch of a few epochs, and read the event file."""
    module = ContrastiveLearning(config_of(folder, **(OFF | changed)))
    logger = board(folder / "run")
    for step in range(N_STEPS):
        trainer = SimpleNamespace(is_global_zero=is_global_zero, global_step=step, logger=logger)
        ViewsLogger().on_train_batch_start(trainer, module, crops(step, dtype), batch_idx)
    logger.finalize("success")
    return events_of(folder / "run")


def said_and_heard(events, view):
    """The text and the samples of a view at each step."""
    texts = events.Tensors(f"views/{view}/text_summary")
    sounds = events.Audio(f"views/{view}")
    assert [text.step for text in texts] == [sound.step for sound in sounds] == [*range(N_STEPS)]
    for text, sound in zip(texts, sounds, strict=True):
        x, _ = soundfile.read(io.BytesIO(sound.encoded_audio_string), dtype="int16")
        yield text.tensor_proto.string_val[0].decode(), x.astype(int)


@pytest.mark.parametrize("view", VIEWS)
def test_what_is_said_to_be_turned_upside_down_is_heard_upside_down(tmp_path, view):
    seen = set()
    events = log_views(tmp_path, transforms_polarity=0.5)
    for step, (said, heard) in enumerate(said_and_heard(events, view)):
        crop = crops(step)[0, VIEWS.index(view)].numpy().astype(int)
        sign = np.sign(heard @ crop)
        assert said == {-1: POLARITY, 1: "crop only"}[sign]
        seen.add(sign)
    assert seen == {-1, 1}


@pytest.mark.parametrize("view", VIEWS)
def test_the_gain_that_is_said_is_the_gain_that_is_heard(tmp_path, view):
    gains_db = set()
    events = log_views(tmp_path, transforms_gain=1.0)
    for step, (said, heard) in enumerate(said_and_heard(events, view)):
        crop = crops(step)[0, VIEWS.index(view)].numpy().astype(int)
        gain_db = 20 * np.log10(np.std(heard) / np.std(crop))
        (row,) = said.splitlines()[2:]
        _, name, value, _ = row.split("|")
        assert name.strip() == "gain"
        assert float(value.removesuffix(" dB ")) == pytest.approx(gain_db, abs=0.06)  # 3 digits
        gains_db.add(value)
    assert len(gains_db) == N_STEPS


@pytest.mark.parametrize("view", VIEWS)
def test_without_augmentations_it_says_that_a_view_is_a_crop_only(tmp_path, view):
    assert {said for said, _ in said_and_heard(log_views(tmp_path), view)} == {"crop only"}


@pytest.mark.parametrize("view", VIEWS)
def test_crops_that_came_augmented_are_not_said_to_be_plain(tmp_path, view):
    # As those of the reference chain do, which the workers apply: floats, not the store's int16.
    events = log_views(tmp_path, dtype=torch.float32, augmentations="reference")
    assert {said for said, _ in said_and_heard(events, view)} == {
        "augmented by the reference chain, which does not tell what it drew"
    }


@pytest.mark.parametrize("other", [{"batch_idx": 1}, {"is_global_zero": False}])
def test_only_the_first_batch_and_the_first_device_speak(tmp_path, other):
    assert log_views(tmp_path, **other).Tags()["tensors"] == []
