"""What tests of whole runs need: a little music on disk, its settings, and event files read."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from clmr.config import Config, load_config
from clmr.trained import Trained

ROOT = Path(__file__).parents[1]
SAMPLE_RATE = 22_050
# A hash of the name puts a tenth of the files into `valid`: of these names the last three.
TRAIN = tuple(f"train{number}.wav" for number in (0, 1, 2, 4, 5, 6, 7))
VALID = ("valid33.wav", "valid35.wav", "valid51.wav")


def write_music(folder: Path, names: tuple[str, ...], seconds: float = 3.5) -> None:
    """Write files that sound different: a tone of its own pitch in noise of its own level."""
    folder.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        x = 0.3 * np.sin(2 * np.pi * 110 * 1.5**number * time_s)
        x += 0.02 * (number + 1) * rng.standard_normal(len(x))
        soundfile.write(folder / name, x, SAMPLE_RATE)


def settings(folder: Path, **changed: object) -> list[str]:
    """A command line: a small encoder on the CPU, and whatever is changed."""
    known = {
        "dataset": "audio",
        "dataset_dir": folder / "music",
        "store_dir": folder / "store",
        "accelerator": "cpu",
        "encoder": "sample_cnn_small",
        "batch_size": 3,
        "workers": 0,
        "log_every_n_steps": 1,
        "precision": 32,
    }
    return [f"--{name}={value}" for name, value in (known | changed).items()]


def config_of(folder: Path, **changed: object) -> Config:
    """The settings of that command line."""
    return load_config(settings(folder, **changed))


def events_of(run_dir: Path) -> EventAccumulator:
    """Everything in the event files of a run."""
    everything = dict.fromkeys(("scalars", "audio", "tensors"), 0)
    return EventAccumulator(str(run_dir), size_guidance=everything).Reload()


def curve(run_dir: Path, name: str) -> dict[int, float]:
    """A curve by step; of a step that was logged twice the later value."""
    return {event.step: event.value for event in events_of(run_dir).Scalars(name)}


def load(path: Path) -> dict[str, Any]:
    """A checkpoint as it is."""
    return torch.load(path, weights_only=True)


def weights(trained: Trained) -> dict[str, Tensor]:
    """Those that a run ended with."""
    return load(trained.last)["state_dict"]


def state(run_dir: Path) -> dict[str, Tensor]:
    """Every number of `last.ckpt` that training goes on from: weights and optimizer, flat."""
    checkpoint = load(run_dir / "last.ckpt")
    moments = checkpoint["optimizer_states"][0]["state"]
    flat = {f"{k}.{name}": value for k, of_k in moments.items() for name, value in of_k.items()}
    return checkpoint["state_dict"] | flat | {"step": torch.tensor(checkpoint["global_step"])}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors by the same names are equal bit for bit."""
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def environment() -> dict[str, str]:
    """Of a process that finds the package, and computes on one thread as these tests do."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
