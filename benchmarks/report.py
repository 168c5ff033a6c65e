"""What the benchmarks share: the machine in words, and figures as JSON."""

import json
import os
import platform
from pathlib import Path

import torch


def machine(device: torch.device) -> str:
    """Where a figure comes from, without its name."""
    gpu = f", {torch.cuda.get_device_name()}" if device.type == "cuda" else ""
    return f"{platform.machine()}, {os.cpu_count()} cores{gpu}, {platform.system()}"


def write_json(figures: dict, path: Path) -> None:
    """Write figures, with the folders that are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")
