"""When a curve has stopped getting better."""

from dataclasses import dataclass

LOWER_IS_BETTER = frozenset(["uniformity"])


@dataclass
class EarlyStop:
    """Watch one curve, and count the points since its best.

    Args:
        curve: Its name.
        patience: Points in a row without a new best, after which it is over.
        best: The best value so far; None before the first.
        best_step: Where that was.
        n_since: Points since.
    """

    curve: str
    patience: int
    best: float | None = None
    best_step: int = 0
    n_since: int = 0

    def see(self, step: int, value: float | None) -> None:
        """Take the next point; None for one that could not be computed, which is no new best."""
        if value is not None and (self.best is None or self._is_better(value)):
            self.best, self.best_step, self.n_since = value, step, 0
        else:
            self.n_since += 1

    @property
    def is_over(self) -> bool:
        return self.n_since >= self.patience

    def __str__(self) -> str:
        best = "" if self.best is None else f" than {self.best:.4g} at step {self.best_step:,}"
        return f"{self.curve} was no better in {self.n_since} probes{best}"

    def _is_better(self, value: float) -> bool:
        return value < self.best if self.curve in LOWER_IS_BETTER else value > self.best
