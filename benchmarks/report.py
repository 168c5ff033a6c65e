"""What the benchmarks share: the machine in words, time and memory, and figures as JSON."""

import json
import os
import platform
import re
import time
from pathlib import Path

import torch


def machine(device: torch.device) -> str:
    """Where a figure comes from, without its name."""
    gpu = f", {torch.cuda.get_device_name()}" if device.type == "cuda" else ""
    return f"{platform.machine()}, {os.cpu_count()} cores{gpu}, {platform.system()}"


def now(device: torch.device) -> float:
    """Seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_of_process() -> int:
    """The most memory that this process has held [bytes]."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status)[1])


def write_json(figures: dict, path: Path) -> None:
    """Write figures, with the folders that are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")
