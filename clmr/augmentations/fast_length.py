"""Lengths at which an FFT is fast."""

FACTORS = (1, 3, 5, 9, 15)  # times a power of two: others cost up to three times as much


def fast_length(n_samples: int) -> int:
    """The smallest fast length of at least `n_samples`."""
    return min(m << max(0, (-(-n_samples // m) - 1).bit_length()) for m in FACTORS)
