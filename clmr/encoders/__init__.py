"""Encoders: float `[B, 1, T]` -> float `[B, F]`.

To add one, subclass `Encoder` in a file of its own and list it here.
"""

from clmr.encoders.base import Encoder
from clmr.encoders.log_mel import LogMelStatistics
from clmr.encoders.sample_cnn import SampleCNN, SampleCNNSmall

ENCODERS: dict[str, type[Encoder]] = {
    "sample_cnn": SampleCNN,
    "sample_cnn_small": SampleCNNSmall,
}

__all__ = ["ENCODERS", "Encoder", "LogMelStatistics", "SampleCNN", "SampleCNNSmall"]
