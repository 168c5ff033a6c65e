"""Which devices to run on, and in which arithmetic."""

import os
import re
import shutil
from pathlib import Path

import torch

from clmr.errors import ConfigError


def choose_devices(accelerator: str, gpus: int | None) -> tuple[str, int]:
    """Turn `--accelerator` and `--gpus` into what a trainer takes.

    Args:
        accelerator: `auto`, `gpu` or `cpu`.
        gpus: How many; None is one GPU if there is one. With `cpu`, processes.

    Returns:
        `gpu` or `cpu`, and the number of devices.

    Raises:
        ConfigError: There are fewer GPUs than asked for.
    """
    if accelerator == "cpu" or (accelerator == "auto" and gpus == 0):
        return "cpu", gpus or 1
    found = torch.cuda.device_count()
    if accelerator == "auto" and gpus is None and not found:
        return "cpu", 1
    wanted = 1 if gpus is None else gpus
    if not 1 <= wanted <= found:
        remedy = f"at most --gpus {found}, or --gpus 0" if found else "--gpus 0"
        raise ConfigError(
            f"--gpus {wanted} --accelerator {accelerator}, but torch finds {found} GPUs here "
            f"(nvidia-smi shows the driver's): give {remedy} --accelerator auto for the CPU"
        )
    return "gpu", wanted


def choose_precision(precision: str, accelerator: str) -> str:
    """Turn `--precision` into what a trainer takes.

    Args:
        precision: `auto`, `32`, `tf32`, `bf16-mixed` or `16-mixed`.
        accelerator: `gpu` or `cpu`.

    Returns:
        `precision`; for `auto`, `bf16-mixed` on a device that computes in it and `32` elsewhere.

    Raises:
        ConfigError: 16-mixed or tf32 without a GPU.
    """
    if precision in ("16-mixed", "tf32") and accelerator == "cpu":
        raise ConfigError(f"--precision {precision} is for GPUs: give bf16-mixed or 32 on the CPU")
    if precision != "auto":
        return precision
    return "bf16-mixed" if _has_bf16(accelerator) else "32"


def _has_bf16(accelerator: str) -> bool:
    """Whether there are instructions for it; what imitates them is slower than float32."""
    if accelerator == "gpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def allow_tf32(allow: bool) -> None:
    """Let the convolutions of a GPU round float32 to the 11 bits of TF32, or forbid it.

    Torch allows it unless told. Matrix products, so the loss, stay in float32 either way.
    """
    torch.backends.cudnn.allow_tf32 = allow


def check_compiler(accelerator: str) -> None:
    """Refuse `--compile` where `torch.compile` would fail in the middle of the first step.

    Raises:
        ConfigError: It finds no compiler to call.
    """
    variable, names = ("CC", ("gcc", "clang")) if accelerator == "gpu" else (
        "CXX", ("g++", "clang++")
    )  # fmt: skip
    if not any(map(shutil.which, (os.environ.get(variable, ""), *names))):
        raise ConfigError(
            f"--compile 1 calls a compiler, and none of {', '.join(names)} is in PATH: install one "
            f"or name it by the environment variable {variable}, or give --compile 0"
        )


def torch_device(accelerator: str) -> torch.device:
    """The first device of an accelerator, for work without a trainer."""
    return torch.device("cuda" if accelerator == "gpu" else "cpu")


def check_store_device(store_device: str, accelerator: str) -> None:
    """Refuse to hold the store in the memory of a GPU that the run does not use.

    Raises:
        ConfigError: `cuda` on the CPU.
    """
    if store_device == "cuda" and accelerator == "cpu":
        raise ConfigError(
            "--store_device cuda holds the store in the memory of the GPU that trains, but this "
            "run is on the CPU: give --accelerator gpu, or --store_device mapped or cpu"
        )


def free_bytes(device: torch.device) -> int | None:
    """Memory that can be taken on a device [bytes]; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    return 1024 * int(re.search(r"MemAvailable:\s*(\d+) kB", meminfo.read_text())[1])
