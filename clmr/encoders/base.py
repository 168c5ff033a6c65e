"""What an encoder is: a network from a waveform to one feature vector, and nothing else."""

from torch import Tensor, nn


class Encoder(nn.Module):
    """Base of all encoders. A new one sets the two numbers and writes `forward`.

    Attributes:
        n_features: Width F of the features.
        min_length: Fewest samples T that it takes.
    """

    n_features: int
    min_length: int

    def forward(self, x: Tensor) -> Tensor:
        """Encode a batch of waveforms.

        Shape:
            float `[B, 1, T]` -> float `[B, F]`.

        Raises:
            ValueError: T is below `min_length`.
        """
        raise NotImplementedError

    def check_length(self, n_samples: int) -> None:
        """Refuse an input that is too short, with the reason."""
        if n_samples < self.min_length:
            raise ValueError(
                f"{type(self).__name__} needs at least {self.min_length} samples, got {n_samples}: "
                f"its pools leave nothing of less (--audio_length {self.min_length})"
            )
