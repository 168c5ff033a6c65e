"""What was drawn, in words; expected texts are written by hand."""

import pytest

from clmr.drawn import as_table, in_short, in_words

DRAWN = {
    "polarity": {},
    "noise": {"snr": 0.0042345, "seed": 123456789},
    "gain": {"gain_db": -3.1049},
    "filters": {"high_pass": True, "cutoff_hz": 812.34},
    "delay": {"delay_ms": 350},
    "pitch": {"cents": 312},
    "reverb": {"reverberance": 45, "damping": 0, "room_scale": 90},
    "reverse": {},
}


def test_a_file_name_holds_the_values_with_their_units_and_no_seed():
    assert in_short(DRAWN) == (
        "polarity-noise-0.00423-gain-3.1db-filters-highpass-812hz-delay-350ms-pitch+312c"
        "-reverb-45-0-90-reverse"
    )


def test_a_title_names_the_values_unless_the_step_does_so():
    assert in_words(DRAWN) == (
        "polarity · noise: snr 0.00423 · gain: -3.1 dB · filters: high pass, cutoff 812 Hz · "
        "delay: 350 ms · pitch: +312 cents · reverb: reverberance 45, damping 0, room scale 90 · "
        "reverse"
    )


def test_a_table_has_a_row_a_step():
    few = {name: DRAWN[name] for name in ("polarity", "filters")}
    assert as_table(few).splitlines() == [
        "| step | parameters |", "|---|---|",
        "| polarity |  |", "| filters | high pass, cutoff 812 Hz |",
    ]  # fmt: skip


def test_a_switch_that_is_off_is_not_mentioned():
    low_pass = {"filters": {"high_pass": False, "low_pass": True, "cutoff_hz": 2812.0}}
    assert in_short(low_pass) == "filters-lowpass-2812hz"
    assert in_words(low_pass) == "filters: low pass, cutoff 2812 Hz"


def test_where_nothing_was_drawn_it_is_unchanged():
    assert in_short({}) == in_words({}) == "unchanged"


def test_an_augmentation_that_nobody_knows_is_written_by_the_same_rules():
    drawn = {"Time_Warp": {"rate": 1.25, "hold_s": 0.5, "pan": -0.5, "loud": True, "own_seed": 7}}
    assert in_short(drawn) == "timewarp-1.25-0.5s--0.5-loud"
    assert in_words(drawn) == "Time_Warp: rate 1.25, hold 0.5 s, pan -0.5, loud"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"), (0.0, "0"), (100, "100"), (1_234_567, "1234567"), (3567.8, "3568"),
        (812.4, "812"), (99.96, "100"), (99.94, "99.9"), (9.996, "10"), (0.5, "0.5"),
        (0.00012345, "0.000123"), (-20.0, "-20"),
    ],
)  # fmt: skip
def test_a_number_is_whole_or_has_three_digits_that_count(value, written):
    assert in_words({"it": {"it": value}}) == f"it: {written}"


@pytest.mark.parametrize(("value", "written"), [(5, "+5"), (0, "+0"), (-5, "-5"), (1.5, "+1.5")])
def test_a_change_always_has_its_sign(value, written):
    assert in_short({"x": {"cents": value}}) == f"x{written}c"
    assert in_words({"x": {"level_db": value}}) == f"x: level {written} dB"
