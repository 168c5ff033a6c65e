"""What a command prints, where to, and with which exit status."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from clmr.__main__ import COMMANDS, main
from clmr.arguments import Arguments
from clmr.command import run
from clmr.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    DatasetError,
    StoreError,
    Terminated,
)

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


def test_the_end_that_a_scheduler_asks_for_has_the_status_that_shells_give_it(capsys):
    def workflow(config):
        raise Terminated("saved runs/1/last.ckpt")

    assert run(workflow, []) == 143  # 128 + SIGTERM
    assert capsys.readouterr().err.strip() == "interrupted: saved runs/1/last.ckpt"


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


# Arguments that are no settings.


def arguments():
    own = Arguments("program FILE", "what it does", settings=["seed"])
    own.add_argument("file")
    own.add_argument("--size", type=int, default=3)
    return own


def given(argv):
    """What a workflow gets, with three of its settings."""
    seen = []
    workflow = lambda config, **own: seen.append((config.seed, config.batch_size, own))  # noqa: E731
    assert run(workflow, argv, arguments()) == 0
    return seen[0]


@pytest.mark.parametrize(
    "argv",
    [
        ["x.wav", "--size", "5", "--seed", "7", "--batch_size", "9"],
        ["--seed", "7", "--batch_size=9", "x.wav", "--size=5"],
        ["--size", "5", "--seed=1", "--batch_size", "9", "--seed", "7", "--", "x.wav"],
    ],
)
def test_a_workflow_gets_its_arguments_and_the_settings_in_whatever_order(argv):
    assert given(argv) == (7, 9, {"file": "x.wav", "size": 5})


def test_a_config_file_gives_settings_that_flags_override(tmp_path):
    (tmp_path / "my.yaml").write_text("seed: 5\nbatch_size: 6\n")
    argv = ["--seed", "7", "--config", str(tmp_path / "my.yaml"), "x.wav"]
    assert given(argv) == (7, 6, {"file": "x.wav", "size": 3})


def test_settings_can_be_printed_beside_arguments(capsys):
    argv = ["x.wav", "--print_config", "--seed", "7"]
    with pytest.raises(SystemExit) as exit:
        run(lambda *_: pytest.fail("it ran"), argv, arguments())
    assert not exit.value.code
    assert "seed: 7\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--siz", "5", "x.wav"], "unknown flag --siz (did you mean '--size'?); see --help"),
        (["--sede", "5", "x.wav"], "unknown flag --sede (did you mean '--seed'?); see --help"),
        (["x.wav", "--size", "big"], "argument --size: invalid int value: 'big'; see --help"),
        (["--seed", "5"], "the following arguments are required: file; see --help"),
        (["x.wav", "--seed", "one"], "seed: expected int, got one"),
    ],
)
def test_a_wrong_argument_is_one_message_and_status_1(argv, expected, capsys):
    assert run(lambda *_: pytest.fail("it ran"), argv, arguments()) == 1
    assert capsys.readouterr() == ("", f"error: {expected}\n")


# The commands and the scripts.


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_without_a_command_they_are_listed_with_a_line_of_help_each(argv, capsys):
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name, command in COMMANDS.items():
        assert f"  {name}  " in out
        assert command.__doc__ in out
        assert len(command.__doc__.splitlines()) == 1


def test_an_unknown_command_is_refused_with_the_nearest_one(capsys):
    assert main(["augmnet", "x.wav"]) == 1
    message = f"unknown command 'augmnet' (did you mean 'augment'?); known: {', '.join(COMMANDS)}"
    assert capsys.readouterr() == ("", f"error: {message}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_knows_every_setting(name, capsys):
    with pytest.raises(SystemExit) as exit:
        main([name, "--help"])
    assert not exit.value.code
    assert f"python -m clmr {name}" in capsys.readouterr().out
    assert main([name, "--sede", "1"]) == 1
    assert "(did you mean '--seed'?)" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:'clmr.__main__' found in sys.modules")
def test_python_m_ends_with_the_status_of_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["clmr", "augment", "--sede", "1"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_module("clmr", run_name="__main__")
    assert exit.value.code == 1
    assert capsys.readouterr().err.startswith("error: unknown flag --sede")


def test_to_list_the_commands_takes_no_pytorch():
    code = "import sys; from clmr.__main__ import main; main([]); sys.exit('torch' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True
    )


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
