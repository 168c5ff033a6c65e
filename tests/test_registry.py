"""Looking up an alternative by name, and every registry of the package."""

import pytest

from clmr.augmentations import AUGMENTATIONS, Augmentation
from clmr.config import Config
from clmr.datasets import DATASETS, AudioDataset
from clmr.encoders import ENCODERS, Encoder
from clmr.errors import ConfigError
from clmr.losses import LOSSES
from clmr.registry import did_you_mean, lookup

INSTRUMENTS = {"harp": 47, "cello": 4, "harpsichord": 88}


def test_a_known_name_gives_its_entry():
    assert lookup("instrument", INSTRUMENTS, "cello") == 4


def test_an_unknown_name_is_answered_with_the_nearest_and_with_all():
    with pytest.raises(ConfigError) as error:
        lookup("instrument", INSTRUMENTS, "celo")
    assert str(error.value) == (
        "unknown instrument 'celo' (did you mean 'cello'?); known: harp, cello, harpsichord"
    )


def test_a_name_far_from_all_is_answered_without_a_guess():
    with pytest.raises(ConfigError, match="^unknown instrument 'xyz'; known: harp, "):
        lookup("instrument", INSTRUMENTS, "xyz")
    assert did_you_mean("xyz", INSTRUMENTS) == ""


def test_a_name_is_not_an_attribute_or_a_prefix():
    for name in ("harps", "", "HARP", "keys"):
        with pytest.raises(ConfigError):
            lookup("instrument", INSTRUMENTS, name)


def test_the_registries_hold_what_they_say():
    assert all(issubclass(kind, AudioDataset) for kind in DATASETS.values())
    assert all(issubclass(kind, Encoder) for kind in ENCODERS.values())
    assert all(issubclass(kind, Augmentation) for kind in AUGMENTATIONS.values())


def test_the_default_settings_are_in_the_registries():
    config = Config()
    assert config.dataset in DATASETS
    assert config.encoder in ENCODERS
    assert config.loss in LOSSES


def test_every_augmentation_has_its_probability_in_the_settings_and_no_other_has():
    names = [name.removeprefix("transforms_") for name in vars(Config()) if "transforms" in name]
    assert names == list(AUGMENTATIONS)


def test_the_chain_is_in_the_order_of_the_paper():
    # Spijkervet & Burgoyne 2021, arXiv:2103.09410, section 3.2, without the crop, which is first.
    order = ["polarity", "noise", "gain", "filter", "delay", "pitch", "reverb"]
    places = [order.index(name) for name in AUGMENTATIONS if name in order]
    assert places == sorted(places)
