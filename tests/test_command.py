"""What a command prints, where to, and with which exit status."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from clmr.command import run
from clmr.errors import AudioError, CheckpointError, ConfigError, DatasetError, StoreError

ROOT = Path(__file__).parents[1]
SCRIPTS = ("preprocess.py", "main.py", "linear_evaluation.py")


def test_a_workflow_gets_the_settings_and_its_summary_is_printed(capsys):
    status = run(lambda config: f"seed {config.seed}, {config.dataset}", ["--seed", "7"])
    assert status == 0
    assert capsys.readouterr() == ("seed 7, magnatagatune\n", "")


@pytest.mark.parametrize(
    "kind", [AudioError, CheckpointError, ConfigError, DatasetError, StoreError]
)
def test_an_error_that_the_user_can_mend_is_one_message_and_status_1(kind, capsys):
    def workflow(config):
        raise kind("there is no harp: buy one")

    assert run(workflow, []) == 1
    assert capsys.readouterr() == ("", "error: there is no harp: buy one\n")


def test_wrong_settings_stop_before_the_work(capsys):
    def workflow(config):
        pytest.fail("it ran")

    assert run(workflow, ["--batch_size", "0"]) == 1
    assert capsys.readouterr() == ("", "error: batch_size: got 0, allowed: at least 1\n")


def test_an_interrupt_is_told_apart_by_its_status_and_says_what_it_left(capsys):
    def workflow(config):
        raise KeyboardInterrupt("saved runs/1/last.ckpt")

    assert run(workflow, []) == 130  # 128 + SIGINT
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip() == "interrupted: saved runs/1/last.ckpt"


@pytest.mark.parametrize("kind", [ValueError, KeyError, RuntimeError, OSError])
def test_a_bug_keeps_its_traceback(kind):
    def workflow(config):
        raise kind("ours")

    with pytest.raises(kind, match="ours"):
        run(workflow, [])


@pytest.mark.parametrize("flag", ["--help", "--print_config"])
def test_asking_for_help_is_no_error(flag, capsys):
    with pytest.raises(SystemExit) as exit:
        run(lambda config: pytest.fail("it ran"), [flag])
    assert not exit.value.code
    out, err = capsys.readouterr()
    assert "batch_size" in out
    assert err == ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_ends_with_the_status_of_its_workflow(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--sede", "1"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert exit.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: unknown flag --sede (did you mean '--seed'?); see --help\n"


def test_the_shell_sees_the_status_and_one_line_without_a_traceback(tmp_path):
    # From another folder: the settings are found beside the package, not in the current folder.
    command = [sys.executable, str(ROOT / "main.py"), "--dataset_dir", str(tmp_path / "nowhere")]
    done = subprocess.run(
        [*command, "--dataset", "audio", "--accelerator", "cpu"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: there is no folder {tmp_path / 'nowhere'}")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
