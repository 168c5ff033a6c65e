"""What a run says that it was made with, against git, the interpreter and the packages."""

import subprocess
import sys
from datetime import datetime, timedelta
from importlib import metadata

import pytest
import torch
import yaml

from clmr.environment import device_names, environment, git_state, note_environment


@pytest.fixture
def checkout(tmp_path):
    """A function that runs git in a repository with a package in it."""
    package = tmp_path / "repository" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "module.py").write_text("x = 1\n")

    def git(*arguments):
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=package, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    return package, git


def test_the_commit_is_that_of_the_code(checkout):
    package, git = checkout
    first = git("log", "--format=%H")
    assert git_state(package) == {"commit": first, "changed": False}
    git("commit", "--allow-empty", "-m", "second")
    assert git_state(package)["commit"] == git("log", "-1", "--format=%H") != first


@pytest.mark.parametrize("name", ["module.py", "new.py"])
def test_code_that_differs_from_its_commit_is_said_to(checkout, name):
    package, _ = checkout
    (package / name).write_text("x = 2\n")
    assert git_state(package)["changed"] is True


def test_code_that_is_no_checkout_has_no_commit(checkout, tmp_path):
    unknown = {"commit": None, "changed": None}
    assert git_state(tmp_path) == unknown
    installed = checkout[0] / "environment" / "package"  # inside of a repository, not of it
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert git_state(installed) == unknown


def test_without_git_there_is_no_commit(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(checkout[0]) == {"commit": None, "changed": None}


def test_packages_interpreter_and_the_given_facts_are_named(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "--dataset_dir", "my music"])
    found = environment(seed=3, devices=["a", "b"])
    assert (found["seed"], found["devices"]) == (3, ["a", "b"])
    assert found["command"] == "main.py --dataset_dir 'my music'"
    assert found["python"] == sys.version.split()[0]
    assert found["torch"] == torch.__version__
    for name in ("torch", "torchaudio", "pytorch-lightning", "numpy", "simclr", "timm"):
        assert found["packages"][name] == metadata.version(name)
    assert datetime.now().astimezone() - datetime.fromisoformat(found["date"]) < timedelta(hours=1)


def test_a_run_that_goes_on_elsewhere_says_both(tmp_path):
    for machine in ("first", "second"):
        note_environment(tmp_path / "run", devices=[machine])
    documents = list(yaml.safe_load_all((tmp_path / "run" / "environment.yaml").read_text()))
    assert [document["devices"] for document in documents] == [["first"], ["second"]]


def test_every_gpu_is_named_and_a_cpu_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"gpu {number}")
    assert device_names("gpu", 2) == ["gpu 0", "gpu 1"]
    (cpu,) = device_names("cpu", 2)
    assert cpu.endswith("cores")
