"""Losses over pairs: projections `[B, D]` of two views of the same clips -> scalar.

To add one, write an `nn.Module` with `forward(z_i, z_j)` in a file of its own and list it here.
"""

import inspect

from torch import nn

from clmr.losses.dcl import DCL
from clmr.losses.nt_xent import NTXent
from clmr.losses.vicreg import VICReg

LOSSES: dict[str, type[nn.Module]] = {
    "nt_xent": NTXent,
    "dcl": DCL,
    "vicreg": VICReg,
}


def build_loss(kind: type[nn.Module], temperature: float) -> nn.Module:
    """Build a loss; one that asks for a `temperature` is given it."""
    asks = "temperature" in inspect.signature(kind).parameters
    return kind(temperature=temperature) if asks else kind()


__all__ = ["DCL", "LOSSES", "NTXent", "VICReg", "build_loss"]
