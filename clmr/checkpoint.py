"""Checkpoints: ours, and those that users of CLMR already have."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clmr.encoders import ENCODERS, Encoder
from clmr.errors import CheckpointError
from clmr.registry import lookup

# Where encoder weights are kept: by Lightning (ours and CLMR's second release), by CLMR's first,
# and in the state of an encoder itself.
ENCODER_PREFIXES = ("model.encoder.", "encoder.", "")
CLMR_ENCODER = "sample_cnn"  # the only one of the released checkpoints, which do not name it
# Lightning before 1.5, as of CLMR's second release, keeps the state of callbacks by their class.
CALLBACK_CLASSES = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
)
MAX_KEYS_SHOWN = 10


class Checkpoint(NamedTuple):
    """A checkpoint that was read: its settings, {} for CLMR's, and its weights by name."""

    settings: dict[str, Any]
    weights: dict[str, Tensor]
    step: int = 0  # how many were taken


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file of weights without running any code that it may hold.

    Raises:
        CheckpointError: There is no such file, or it is not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"there is no checkpoint {path}: give the last.ckpt of a run by --checkpoint_path, "
            "or make one with main.py"
        )
    no_code = [(object, name) for name in CALLBACK_CLASSES]  # stands for them, and does nothing
    try:
        with torch.serialization.safe_globals(no_code):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes can lead the unpickler into any
        raise CheckpointError(
            f"{path} is not a checkpoint, is damaged, or holds more than weights and settings: "
            f"{type(error).__name__} {str(error).partition(chr(10))[0]}"
        ) from error
    weights = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        raise CheckpointError(f"{path} holds no network: expected a dict of weights")
    return Checkpoint(content.get("hyper_parameters") or {}, weights, content.get("global_step", 0))


def load_encoder(path: str | Path) -> Encoder:
    """Load the encoder of a checkpoint: ours, or one of both formats that CLMR released.

    Args:
        path: A `.ckpt` of `main.py`, or a `.ckpt` or `.pt` of CLMR.

    Returns:
        The encoder on the CPU, in evaluation mode.

    Raises:
        CheckpointError: There is no such file, or it holds no encoder that is known here.
    """
    return encoder_of(read_checkpoint(path), path)


def encoder_of(checkpoint: Checkpoint, path: str | Path) -> Encoder:
    """`load_encoder` for a checkpoint that was read from `path` already."""
    name = checkpoint.settings.get("encoder", CLMR_ENCODER)
    encoder = lookup("encoder", ENCODERS, name)()
    load_weights(encoder, _encoder_weights(checkpoint.weights), path)
    return encoder.eval()


def load_weights(module: torch.nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Load weights into a module if names and shapes agree.

    Raises:
        CheckpointError: They do not; with at most ten of the names that differ.
    """
    expected = module.state_dict()
    differences = [f"missing: {name}" for name in expected if name not in weights]
    differences += [f"unknown: {name}" for name in weights if name not in expected]
    differences += [
        f"{name}: {list(weights[name].shape)}, expected {list(expected[name].shape)}"
        for name in expected
        if name in weights and weights[name].shape != expected[name].shape
    ]
    if differences:
        shown = [f"  {line}" for line in differences[:MAX_KEYS_SHOWN]]
        more = len(differences) - len(shown)
        raise CheckpointError(
            "\n".join(
                [f"{path} holds another network than {type(module).__name__}:", *shown]
                + [f"  and {more} more"] * (more > 0)
            )
        )
    module.load_state_dict(weights)


def _encoder_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in ENCODER_PREFIXES:
        found = {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            # A supervised CLMR encoder carries the head it was trained with.
            if name.startswith(prefix) and not name.startswith(f"{prefix}fc.")
        }
        if found:
            return found
    return {}
