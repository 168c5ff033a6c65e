"""Clips a second of preprocessing, beside one ffmpeg process a file, on the same files.

    python benchmarks/preprocess.py DIR [--repeats 5] [--workers 2] [--out FILE.json]

Both ways decode every audio file below DIR to 22,050 Hz mono, in pairs, one after the other, so
that a machine whose speed drifts slows both. ffmpeg is run as many at a time as there are workers.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from report import machine, write_json

from clmr.config import Config
from clmr.datasets import AudioFolder
from clmr.preprocess import preprocess

SAMPLE_RATE = 22050


def ours(folder: Path, workers: int) -> float:
    """Seconds to write the store."""
    with tempfile.TemporaryDirectory() as store:
        config = Config(
            dataset="audio", dataset_dir=str(folder), store_dir=store, workers=workers
        )
        started = time.perf_counter()
        preprocess(config)
        return time.perf_counter() - started


def ffmpeg(files: list[Path], workers: int) -> float:
    """Seconds for one ffmpeg process a file, `workers` at a time, to raw 16-bit PCM."""
    with tempfile.TemporaryDirectory() as out, ThreadPoolExecutor(workers) as pool:
        started = time.perf_counter()
        list(pool.map(_convert, files, [Path(out) / f"{k}.pcm" for k in range(len(files))]))
        return time.perf_counter() - started


def _convert(source: Path, target: Path) -> None:
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(source), "-ac", "1"]
    command += ["-ar", str(SAMPLE_RATE), "-f", "s16le", str(target)]
    subprocess.run(command, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    args = parser.parse_args()
    if not shutil.which("ffmpeg"):
        print("error: ffmpeg is not installed, and there is nothing to compare with; install it")
        return 1
    files = [clip.path for clip in AudioFolder(args.folder).clips()]
    ours(args.folder, args.workers), ffmpeg(files, args.workers)  # warm the disk's cache
    pairs = [
        (ours(args.folder, args.workers), ffmpeg(files, args.workers)) for _ in range(args.repeats)
    ]
    figures = {
        "command": f"python benchmarks/preprocess.py DIR --repeats {args.repeats}",
        "folder": args.folder.name,
        "machine": machine(torch.device("cpu")),
        "n_clips": len(files),
        "workers": args.workers,
        "clmr_clips_per_s": len(files) / statistics.median(a for a, _ in pairs),
        "ffmpeg_clips_per_s": len(files) / statistics.median(b for _, b in pairs),
        "ratio": statistics.median(b / a for a, b in pairs),
        "seconds": [{"clmr": a, "ffmpeg": b} for a, b in pairs],
    }
    print(f"{len(files)} clips, {args.workers} at a time, medians of {args.repeats} pairs")
    print(f"clmr               {figures['clmr_clips_per_s']:8.1f} clips/s")
    print(f"ffmpeg a file      {figures['ffmpeg_clips_per_s']:8.1f} clips/s")
    print(f"ratio              {figures['ratio']:8.2f}")
    if args.out:
        write_json(figures, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
