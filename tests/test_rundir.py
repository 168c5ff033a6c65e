"""The folder of a run."""

from pathlib import Path

import pytest

from clmr.rundir import run_dir


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_folder_that_was_asked_for_is_taken_as_it_is():
    assert run_dir("some/where", "pretrain-demo") == Path("some/where")


def test_the_first_run_of_a_kind_is_version_0():
    Path("runs/eval-demo/version_8").mkdir(parents=True)
    assert run_dir("", "pretrain-demo") == Path("runs/pretrain-demo/version_0")


def test_a_run_never_gets_the_folder_of_another():
    taken = set()
    for _ in range(12):  # past 9, where the names no longer sort as the numbers do
        folder = run_dir("", "pretrain-demo")
        assert folder not in taken
        folder.mkdir(parents=True)
        taken.add(folder)
    assert run_dir("", "pretrain-demo").name == "version_12"


def test_a_gap_is_not_filled_and_other_folders_are_passed_over():
    for name in ("version_3", "version_old", "version_", "notes"):
        Path("runs/pretrain-demo", name).mkdir(parents=True)
    assert run_dir("", "pretrain-demo").name == "version_4"


def test_asking_makes_no_folder():
    run_dir("", "pretrain-demo")
    assert not Path("runs").exists()
