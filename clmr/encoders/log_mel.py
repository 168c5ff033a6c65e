"""Log-mel statistics: the features without learning that a learned representation has to beat."""

import torch
from torch import Tensor
from torchaudio.transforms import MelSpectrogram

from clmr.encoders.base import Encoder

FLOOR = 1e-6  # of the power, -60 dB: below it is the noise of 16 bits
N_FFT = 1024


def mel_power(
    sample_rate: int, n_mels: int = 64, n_fft: int = N_FFT, hop: int = N_FFT // 2
) -> MelSpectrogram:
    """Power in the bands of a mel spectrogram, which are spaced as O'Shaughnessy (1987) has it.

    Args:
        sample_rate: Of the input [Hz].
        n_mels: Bands M.
        n_fft: Length of a frame [samples].
        hop: Distance of two frames [samples].

    Shape:
        float `[..., T]` -> float `[..., M, 1 + T // hop]`; T at least `n_fft // 2 + 1`.
    """
    return MelSpectrogram(sample_rate, n_fft=n_fft, hop_length=hop, n_mels=n_mels)


class LogMelStatistics(Encoder):
    """Mean and standard deviation over time of a log-mel spectrogram; nothing to train.

    Args:
        sample_rate: Of the input [Hz].
        n_mels: Mel bands M; there are F = 2M features.
    """

    min_length = N_FFT

    def __init__(self, sample_rate: int, n_mels: int = 64) -> None:
        super().__init__()
        self.n_features = 2 * n_mels
        self.mel = mel_power(sample_rate, n_mels)

    def forward(self, x: Tensor) -> Tensor:
        self.check_length(x.shape[-1])
        log_mel = torch.log(self.mel(x[:, 0]) + FLOOR)  # [B, M, frames]
        return torch.cat([log_mel.mean(dim=-1), log_mel.std(dim=-1)], dim=-1)
