"""The folder of a run."""

from pathlib import Path

RUNS = Path("runs")


def run_dir(wanted: str, name: str) -> Path:
    """The folder `wanted`, or the next free `runs/<name>/version_<n>` if that is empty."""
    if wanted:
        return Path(wanted)
    taken = [int(n) for p in (RUNS / name).glob("version_*") if (n := p.name[8:]).isdigit()]
    return RUNS / name / f"version_{max(taken, default=-1) + 1}"
