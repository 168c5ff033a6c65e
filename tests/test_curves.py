"""The table of a run's curves: what is in the file, and when."""

import csv

import pytest
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from clmr.curves import CsvCurves


def rows_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [
            (int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)
        ]


def write(folder, *points, **options):
    """Log points at their steps, and leave the file as a killed run does."""
    curves = CsvCurves(folder, **options)
    for step, metrics in points:
        curves.log_metrics(metrics, step)
    return curves


THREE = [(0, {"a": 0.1, "b/c": 1 / 3}), (1, {"a": 1e-30}), (2, {"a": float("nan"), "b/c": 7})]


def test_every_value_is_a_row_as_soon_as_it_is_logged_and_to_its_last_digit(tmp_path):
    curves = CsvCurves(tmp_path / "run")
    expected = []
    for step, metrics in THREE[:2]:
        curves.log_metrics(metrics, step)
        expected += [(step, name, value) for name, value in metrics.items()]
        assert rows_of(tmp_path / "run") == expected  # nothing is closed yet


def test_names_with_commas_come_back(tmp_path):
    write(tmp_path, (0, {'tag, "loud"': 1.0}))
    assert rows_of(tmp_path) == [(0, 'tag, "loud"', 1.0)]


def test_what_is_logged_twice_at_a_step_is_one_row(tmp_path):
    write(tmp_path, (4, {"epoch": 1, "a": 0.5}), (4, {"epoch": 1, "b": 0.5}), (5, {"epoch": 1}))
    assert rows_of(tmp_path) == [(4, "epoch", 1), (4, "a", 0.5), (4, "b", 0.5), (5, "epoch", 1)]


def test_a_run_that_goes_on_keeps_the_rows_before_its_step_and_no_others(tmp_path):
    write(tmp_path, *THREE)
    goes_on = CsvCurves(tmp_path, first_step=2)
    assert len(rows_of(tmp_path)) == 5  # until it logs, it may still be refused
    goes_on.log_metrics({"a": 5.0}, 2)
    expected = [(0, "a", 0.1), (0, "b/c", 1 / 3), (1, "a", 1e-30), (2, "a", 5.0)]
    assert rows_of(tmp_path) == expected


@pytest.mark.parametrize("torn", ["1", "1,a", "1,a,0.", "1,a,0.25"])
def test_a_row_that_was_being_written_when_the_run_was_killed_is_dropped(tmp_path, torn):
    write(tmp_path, THREE[0])
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write(torn)
    write(tmp_path, (2, {"a": 5.0}), first_step=2)
    assert rows_of(tmp_path) == [(0, "a", 0.1), (0, "b/c", 1 / 3), (2, "a", 5.0)]


def test_a_run_that_starts_anew_in_a_folder_begins_the_table_anew(tmp_path):
    write(tmp_path, *THREE)
    write(tmp_path, (0, {"a": 2.0}))
    assert rows_of(tmp_path) == [(0, "a", 2.0)]


def test_a_table_that_was_closed_goes_on(tmp_path):
    curves = write(tmp_path, THREE[0])
    curves.finalize("success")
    curves.log_metrics({"a": 2.0}, 0)
    assert rows_of(tmp_path) == [(0, "a", 0.1), (0, "b/c", 1 / 3), (0, "a", 2.0)]


def test_only_the_first_device_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    write(tmp_path / "run", *THREE).finalize("success")
    assert not (tmp_path / "run").exists()
