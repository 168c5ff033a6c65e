"""SampleCNN: convolutions of three samples, on the raw waveform (Lee et al. 2017)."""

from torch import Tensor, nn

from clmr.encoders.base import Encoder

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
            nn.Sequential(
                nn.Conv1d(1, stem, stride, stride=stride), nn.BatchNorm1d(stem), nn.ReLU()
            ),
            *blocks,
            nn.Sequential(*_convolution(self.n_features, self.n_features)),
        )

    def forward(self, x: Tensor) -> Tensor:
        self.check_length(x.shape[-1])
        return self.sequential(x).mean(dim=-1)  # [B, F, time] -> [B, F]


class SampleCNNSmall(SampleCNN):
    """A SampleCNN for CPUs and for trying things out: same input, about a twentieth of the work.

    Its first convolution takes nine samples at once, as the 9-sample models of the same paper do.
    """

    def __init__(self) -> None:
        super().__init__(stem=32, channels=(32, 64, 64, 64, 128, 128, 128, 256), stride=9)


def _block(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(*_convolution(n_in, n_out), nn.MaxPool1d(3, stride=3))


def _convolution(n_in: int, n_out: int) -> tuple[nn.Module, ...]:
    return nn.Conv1d(n_in, n_out, 3, padding=1), nn.BatchNorm1d(n_out), nn.ReLU()
