"""What the tests of losses share: projections of views that are alike, and both forms."""

import numpy as np
import torch

from clmr.losses import DCL, LOSSES, NTXent, build_loss

TEMPERATURE = 0.2
NEVER, ALWAYS = 10**9, 0  # in strips

# Every loss that there is, and the forms that size alone would not choose here.
FORMS = {name: lambda kind=kind: build_loss(kind, TEMPERATURE) for name, kind in LOSSES.items()}
FORMS |= {
    "nt_xent in strips": lambda: NTXent(TEMPERATURE, strips_above=ALWAYS),
    "dcl in strips": lambda: DCL(TEMPERATURE, strips_above=ALWAYS),
}


def projections(n_clips, n_dims=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z_i, z_j = torch.randn(2, n_clips, n_dims, generator=generator)
    return z_i, 0.7 * z_i + z_j  # views of one clip are alike


def with_gradients(loss, z_i, z_j):
    z_i, z_j = z_i.clone().requires_grad_(), z_j.clone().requires_grad_()
    value = loss(z_i, z_j)
    value.backward()
    return value.detach(), z_i.grad, z_j.grad


def assert_close(ours, theirs, relative=1e-5):
    """Equal within `relative` of the largest value of each tensor."""
    for found, expected in zip(ours, theirs, strict=True):
        assert found.shape == expected.shape
        difference = (found.double() - expected.double()).abs().max()
        assert difference <= relative * expected.abs().max() + 1e-12


def paper_pairs(z_i, z_j, temperature, decoupled):
    """NT-Xent (algorithm 1 of arXiv:2002.05709) or DCL (arXiv:2110.06848), in float64 loops.

    DCL's sum over views is given as the mean, like NT-Xent's.
    """
    z = [row / np.linalg.norm(row) for pair in zip(z_i, z_j, strict=True) for row in pair]
    total = 0.0
    for a in range(len(z)):
        twin = a ^ 1  # 0 and 1 are views of one clip, 2 and 3 of the next
        denominator = 0.0
        for b in range(len(z)):
            if b != a and not (decoupled and b == twin):
                denominator += np.exp(z[a] @ z[b] / temperature)
        total += -z[a] @ z[twin] / temperature + np.log(denominator)
    return total / len(z)


def numeric_gradient(function, z, step=1e-6):
    """Central differences of a function of a float64 array."""
    gradient = np.zeros_like(z)
    for place in np.ndindex(*z.shape):
        up, down = z.copy(), z.copy()
        up[place] += step
        down[place] -= step
        gradient[place] = (function(up) - function(down)) / (2 * step)
    return gradient
