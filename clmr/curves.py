"""Where curves are kept: TensorBoard's event files, and a table that any program reads."""

import csv
from collections.abc import Mapping
from io import TextIOBase
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from clmr.store import writing

METRICS_FILE = "metrics.csv"
HEADER = "step,name,value\n"


def loggers(folder: Path, first_step: int = 0) -> list[Logger]:
    """The loggers of a run: TensorBoard's first, as only it takes sounds and text.

    Args:
        folder: Of the run.
        first_step: Where it goes on; points of before from there on are dropped from both, as they
            come again.
    """
    return [board(folder, first_step), CsvCurves(folder, first_step)]


def board(folder: Path, first_step: int | None = None) -> TensorBoardLogger:
    """TensorBoard's logger of a run, whose event file lies in the run's folder itself."""
    return TensorBoardLogger(
        folder, name="", version="", default_hp_metric=False, purge_step=first_step
    )


class CsvCurves(Logger):
    """Write `metrics.csv`: a row for each point of a curve, on its way to disk once it is logged.

    Long rows, `step,name,value`, so that a curve that comes later needs no new column.

    Args:
        folder: Of the run.
        first_step: Where the run goes on; 0 begins the file anew.
    """

    name = version = ""

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        super().__init__()
        self.path, self.first_step = folder / METRICS_FILE, first_step
        self._file: TextIOBase | None = None
        self._last: dict[str, tuple[int, float]] = {}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        # Lightning adds the number of the epoch to all that it logs at a step.
        new = {k: (step, v) for k, v in metrics.items() if self._last.get(k) != (step, v)}
        self._last |= new
        self._file = self._file or self._open()
        rows = ((step, name, value) for name, (_, value) in new.items())
        csv.writer(self._file, lineterminator="\n").writerows(rows)
        self._file.flush()  # a run that is killed has them

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Settings are no curve."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _open(self) -> TextIOBase:
        rows = self._rows_of_before()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with writing(self.path) as aside:
            aside.write_text(HEADER + "".join(rows), encoding="utf-8")
        self.first_step = None  # a file that is opened again goes on
        return self.path.open("a", encoding="utf-8")

    def _rows_of_before(self) -> list[str]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]
        rows = [line for line in lines if line.endswith("\n")]  # else it was killed in it
        if self.first_step is None:
            return rows
        return [row for row in rows if int(row.partition(",")[0]) < self.first_step]
