"""Contrastive losses: projections `[B, D]` of two views of the same clips -> scalar.

To add one, write an `nn.Module` with `forward(z_i, z_j)` in a file of its own and list it here.
"""

from clmr.losses.nt_xent import NTXent

LOSSES: dict[str, type] = {
    "nt_xent": NTXent,
}

__all__ = ["LOSSES", "NTXent"]
