"""What a run was made with, in its folder: code, packages, machine."""

import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

ENVIRONMENT_FILE = "environment.yaml"
PACKAGE = Path(__file__).parent
GIT_TIMEOUT_S = 20


def note_environment(folder: Path, **facts: Any) -> None:
    """Append what this process runs with to `environment.yaml`: a document for each start of a run.

    Args:
        folder: Of the run.
        facts: Plain values of the run by name, which come first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ENVIRONMENT_FILE).open("a", encoding="utf-8") as file:
        yaml.safe_dump(environment(**facts), file, explicit_start=True, sort_keys=False)


def environment(**facts: Any) -> dict[str, Any]:
    """What this process runs with: plain values by name."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        **facts,
        "git": git_state(PACKAGE),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "packages": dict(sorted((d.name, d.version) for d in metadata.distributions())),
    }


def device_names(accelerator: str, n_devices: int) -> list[str]:
    """What the devices of this machine that a run is on are called; a CPU once."""
    if accelerator == "gpu":
        return [torch.cuda.get_device_name(number) for number in range(n_devices)]
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return [f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores"]


def git_state(folder: Path) -> dict[str, Any]:
    """The commit that a folder of code is at, and whether files differ from it; None if unknown."""
    try:
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")  # not of another's repository
        commit = _git(folder, "rev-parse", "HEAD").strip()
        return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):  # no git, or no checkout
        return {"commit": None, "changed": None}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, timeout=GIT_TIMEOUT_S)
    return done.stdout.decode(errors="replace")
