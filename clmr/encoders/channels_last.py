"""Convolutions over time with the layout in which convolutions are fast: channels last.

Torch knows that layout for images only. A wave is an image one pixel high, `[B, C, 1, T]`; weights
keep the shapes of the 1-D layers, `[C_out, C_in, width]`, and so do checkpoints.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Conv1dChannelsLast(nn.Conv1d):
    """`nn.Conv1d` on an image one pixel high.

    Shape:
        float `[B, C_in, 1, T]` -> float `[B, C_out, 1, T_out]`, in the layout of the input.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.unsqueeze(2)  # [C_out, C_in, 1, width]
        return F.conv2d(x, weight, self.bias, (1, *self.stride), (0, *self.padding))


class PatchesChannelsLast(nn.Conv1d):
    """A convolution of one channel whose stride is its width: a matrix product, over patches.

    Args:
        n_channels: Channels C of the output.
        width: Of a patch, and the stride [samples].

    Shape:
        float `[B, 1, T]` -> float `[B, C, 1, T // width]`, channels last.
    """

    def __init__(self, n_channels: int, width: int) -> None:
        super().__init__(1, n_channels, width, stride=width)

    def forward(self, x: Tensor) -> Tensor:
        (width,) = self.stride
        patches = x[:, 0, : x.shape[-1] // width * width].unflatten(-1, (-1, width))
        y = F.linear(patches, self.weight[:, 0], self.bias)  # [B, T // width, C]
        return y.transpose(1, 2).unsqueeze(2)  # [B, C, 1, T // width]
