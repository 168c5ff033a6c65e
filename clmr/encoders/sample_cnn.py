"""SampleCNN: convolutions of three samples, on the raw waveform (Lee et al. 2017)."""

from torch import Tensor, nn

from clmr.encoders.base import Encoder
from clmr.encoders.channels_last import Conv1dChannelsLast, PatchesChannelsLast

# Lee et al. 2017, arXiv:1703.01789, the 3^9 model: the nine blocks after the strided one.
CHANNELS = (128, 128, 256, 256, 256, 256, 256, 256, 512)


class SampleCNN(Encoder):
    """The 3^9 model: 59,049 = 3^10 samples to one vector.

    Longer input gives several vectors over time, which are averaged. The modules are named as in
    the released CLMR encoders (`sequential.0.0.weight`, ...), whose weights load as they are.

    Args:
        stem: Channels of the first convolution.
        channels: Channels of each block; a block shortens time to a third.
        stride: Samples of the first convolution, which is its stride as well.
    """

    def __init__(
        self, stem: int = 128, channels: tuple[int, ...] = CHANNELS, stride: int = 3
    ) -> None:
        super().__init__()
        self.n_features = channels[-1]
        self.min_length = stride * 3 ** len(channels)
        widths = (stem, *channels)
        blocks = [_block(n_in, n_out) for n_in, n_out in zip(widths, channels, strict=False)]
        self.sequential = nn.Sequential(
            nn.Sequential(PatchesChannelsLast(stem, stride), nn.BatchNorm2d(stem), nn.ReLU()),
            *blocks,
            nn.Sequential(*_convolution(self.n_features, self.n_features), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        self.check_length(x.shape[-1])
        return self.sequential(x).mean(dim=(2, 3))  # [B, F, 1, time] -> [B, F]


class SampleCNNSmall(SampleCNN):
    """A SampleCNN for CPUs and for trying things out: same input, about a twentieth of the work.

    Its first convolution takes nine samples at once, as the 9-sample models of the same paper do.
    """

    def __init__(self) -> None:
        super().__init__(stem=32, channels=(32, 64, 64, 64, 128, 128, 128, 256), stride=9)


def _block(n_in: int, n_out: int) -> nn.Sequential:
    # The paper has the pool after the ReLU. Before it gives the same numbers, for a third of them.
    return nn.Sequential(*_convolution(n_in, n_out), nn.MaxPool2d((1, 3)), nn.ReLU())


def _convolution(n_in: int, n_out: int) -> tuple[nn.Module, ...]:
    return Conv1dChannelsLast(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out)
