"""Crops a second: decoding whole files, seeking in them, and copying out of the mapped store.

    python benchmarks/store.py [--quick] [--audio DIR] [--workers 0,1,2,8] [--out FILE.json]

Batches of 48 pairs of crops of 59,049 samples, as pretraining reads them, by DataLoaders with so
many processes (0: the main one). A decoded file gives both crops of its pair. Without --audio the
files are mono mp3 of 29 s that this writes; files that libsndfile does not open are left out.
Everything was read before it is timed, so that files and store lie in the system's cache: how fast
a disk is that is cold cannot be told from here. The ways take turns, and the table has medians.
Below it is the time that bare copies of as many bytes take, out of the same store.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from itertools import cycle, islice, product
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from report import machine, write_json
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from clmr.allocator import keep_freed_memory
from clmr.audio import load_audio
from clmr.config import Config
from clmr.preprocess import preprocess
from clmr.slices import CropSampler, Places, Slices
from clmr.store import PcmStore

SAMPLE_RATE, CROP, BATCH_SIZE = 22_050, 59_049, 48
CROPS_IN_BATCH = 2 * BATCH_SIZE
SECONDS = 29.1  # as a clip of MagnaTagATune


class FileCrops(Dataset):
    """Batches as `Slices` gives them, out of the files themselves.

    Args:
        paths: The file of each clip.
        seek: Read only the crops; else decode the file and cut them.
    """

    def __init__(self, paths: list[Path], seek: bool) -> None:
        self.paths, self.cut = paths, _seek if seek else _decode

    def __getitem__(self, places: Places) -> Tensor:
        pairs = zip(places.clips, places.starts, strict=True)
        return torch.stack([self.cut(self.paths[clip], starts) for clip, starts in pairs])


def _decode(path: Path, starts: np.ndarray) -> Tensor:
    pcm = load_audio(path, SAMPLE_RATE)
    return torch.stack([pcm[start : start + CROP] for start in starts])


def _seek(path: Path, starts: np.ndarray) -> Tensor:
    crops = torch.empty(len(starts), CROP, dtype=torch.int16)
    with soundfile.SoundFile(path) as file:
        ratio = file.samplerate / SAMPLE_RATE
        for row, start in enumerate(starts):
            file.seek(int(start * ratio))
            x = file.read(int(np.ceil(CROP * ratio)), dtype="float32", always_2d=True).mean(axis=1)
            x = x if ratio == 1 else soxr.resample(x, file.samplerate, SAMPLE_RATE)
            crops[row, : len(x)] = torch.from_numpy(32_767 * x[:CROP]).to(torch.int16)
    return crops


def write_music(folder: Path, n_files: int) -> None:
    time_s = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    for number in tqdm(range(n_files), desc="writing mp3", leave=False):
        rng = np.random.default_rng(number)
        x = 0.1 * sum(np.sin(2 * np.pi * f * time_s) for f in rng.uniform(80, 4000, 5))
        x += 0.02 * rng.standard_normal(len(x))
        soundfile.write(folder / f"{number:03}.mp3", x, SAMPLE_RATE)


def loaders(folder: Path, store: PcmStore, workers: list[int], quick: bool) -> dict:
    """A loader of each way with each number of processes, and how many batches it is timed on."""
    paths = [folder / source for source, _, _ in store.sources]
    known = soundfile.available_formats()
    clips = np.array([k for k, path in enumerate(paths) if path.suffix[1:].upper() in known])
    if len(clips) < BATCH_SIZE:
        raise SystemExit(f"error: {len(clips)} files of {folder} do; a batch takes {BATCH_SIZE}")
    sampler = CropSampler(clips, store.n_samples[clips], CROP, BATCH_SIZE, seed=0)
    ways = {
        "decode": (FileCrops(paths, seek=False), 2 if quick else 8),
        "seek": (FileCrops(paths, seek=True), 4 if quick else 16),
        "mapped": (Slices(store, CROP), 40 if quick else 400),
    }
    found = {}
    for (way, (dataset, n)), n_workers in product(ways.items(), workers):
        processes = {"num_workers": n_workers, "persistent_workers": n_workers > 0}
        batches = list(islice(cycle(sampler), n))
        found[way, n_workers] = (
            DataLoader(dataset, batch_size=None, sampler=batches, **processes),
            n,
        )
    return found


def seconds(loader: DataLoader) -> float:
    """Time of all batches, from when the loader is asked for the first one."""
    started = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - started


def bare_copy_us(store: PcmStore) -> float:
    """Microseconds to copy the bytes of a crop out of the mapped store, without anything else."""
    rng, batch, times = np.random.default_rng(0), np.empty((CROPS_IN_BATCH, CROP), np.int16), []
    for _ in range(100):
        clips = rng.integers(0, len(store), CROPS_IN_BATCH)
        views = [
            store.read(clip, rng.integers(store.n_samples[clip] - CROP), CROP) for clip in clips
        ]
        started = time.perf_counter()
        for row, view in enumerate(views):
            batch[row] = view
        times.append(time.perf_counter() - started)
    return 1e6 * statistics.median(times) / CROPS_IN_BATCH


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audio", type=Path, metavar="DIR", help="files to read instead")
    parser.add_argument("--workers", default="0,1,2,8", help="processes, several numbers")
    parser.add_argument("--quick", action="store_true", help="fewer files, batches and repeats")
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    args = parser.parse_args()
    sys.stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where libmpg123 complains of each seek in an mp3
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more processes than cores
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.audio or Path(temporary, "music")
        if not args.audio:
            folder.mkdir()
            write_music(folder, BATCH_SIZE if args.quick else 2 * BATCH_SIZE)
        preprocess(Config(dataset="audio", dataset_dir=str(folder), store_dir=f"{temporary}/store"))
        store = PcmStore(f"{temporary}/store")
        timed = loaders(folder, store, [int(n) for n in args.workers.split(",")], args.quick)
        rates = {key: [] for key in timed}
        for repeat in range(2 if args.quick else 4):
            for key, (loader, n) in tqdm(timed.items(), desc=f"repeat {repeat}", leave=False):
                rates[key].append(n * CROPS_IN_BATCH / seconds(loader))
        copy_us = bare_copy_us(store)
    print(f"{machine(torch.device('cpu'))}; crops/s of {len(store)} files, us a crop")
    figures = []
    for (way, n_workers), found in rates.items():
        rate = statistics.median(found[1:])  # the first time starts processes and fills the cache
        figures.append({"way": way, "workers": n_workers, "crops_per_s": rate})
        print(f"{way:<8}{n_workers:>3} workers{rate:>12,.0f}{1e6 / rate:>12,.1f}")
    print(f"a bare copy of a crop takes {copy_us:.1f} us")
    if args.out:
        command = "python benchmarks/store.py " + " ".join(sys.argv[1:])
        about = {"command": command, "machine": machine(torch.device("cpu")), "files": len(store)}
        write_json(about | {"bare_copy_us": copy_us, "figures": figures}, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
