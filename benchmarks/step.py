"""A step of pretraining: where its time goes, against its ceiling and against the older recipe.

    python benchmarks/step.py [--quick] [--batches 48,256] [--precisions 32,bf16-mixed]
                              [--workers N] [--out FILE] [any flag of main.py, as --compile 1]

Three ways, each in processes of its own that take turns, so that a machine whose speed drifts slows
all: `clmr` trains as main.py does, with all augmentations of config.yaml; `ceiling` is the same
network and optimizer on views that lie on the device already: nothing is read, nothing augmented;
`older` is what older_recipe.py says. Clips are noise in a store that is made for it. The parts of a
step are timed one by one, each waiting for the device, which a step of training does not.
"""

import argparse
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import soundfile
import torch
from older_recipe import steps as steps_of_older_recipe
from report import machine, now, peak_of_process, write_json
from torch import Tensor

from clmr.allocator import keep_freed_memory
from clmr.config import Config, load_config
from clmr.datamodule import ContrastiveDataModule
from clmr.datasets import AudioFolder
from clmr.device import choose_precision
from clmr.modules import ContrastiveLearning
from clmr.modules.contrastive_learning import TRAIN
from clmr.preprocess import open_store, preprocess

PARTS = ("read", "copy", "augment", "forward", "loss", "backward", "optimizer")
SECONDS = 4.0  # of a clip
WARM_UP = 2  # steps that are not counted
TARGET_OF_CEILING = 0.9
TARGETS_OF_OLDER = {"cuda": 5.0, "cpu": 2.5}


def write_noise(folder: Path, n_clips: int) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(n_clips):
        x = 0.1 * rng.standard_normal(round(SECONDS * Config.sample_rate))
        soundfile.write(folder / f"{number}.wav", x, Config.sample_rate)


class Bench:
    """What the ways share: settings, data, and the device."""

    def __init__(self, config: Config) -> None:
        torch.manual_seed(0)
        self.config = config
        self.device = torch.device("cuda" if config.accelerator == "gpu" else "cpu")
        clips = AudioFolder(config.dataset_dir).clips()
        self.store = open_store(config, clips)
        self.data = ContrastiveDataModule(config, self.store, clips)
        self.bf16 = config.precision == "bf16-mixed"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def module(self) -> tuple[ContrastiveLearning, torch.optim.Optimizer]:
        c = self.config
        module = ContrastiveLearning(c).to(self.device).train()
        module.on_fit_start()  # compiles
        optimizer = module.build_optimizer(module, c.learning_rate, c.weight_decay, c.momentum)
        return module, optimizer

    def peak_mb(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 1e6
        return peak_of_process() / 1e6


# The ways. Each gives the seconds of `n_steps` steps, after the warm-up, and what else it knows.


def time_clmr(bench: Bench, n_steps: int) -> dict:
    clock = Clock(bench.device)
    trainer = pl.Trainer(
        accelerator=bench.config.accelerator,
        devices=1,
        precision=bench.config.precision,
        max_steps=WARM_UP + n_steps,
        limit_val_batches=0,
        use_distributed_sampler=False,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(ContrastiveLearning(bench.config), bench.data)
    return {"seconds": clock.seconds(), "waits": clock.waits()}


class Clock(pl.Callback):
    """Time from the end of the warm-up, and what of it passes between two steps.

    On a GPU that is the time in which the device has nothing to do but to be given its batch.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.started, self.pauses = device, 0.0, []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == WARM_UP:
            self.started, self.pauses = now(self.device), []
        self.pauses.append([self._mark(), None])

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        if self.pauses:
            self.pauses[-1][1] = self._mark()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.ended = now(self.device)

    def _mark(self) -> float | torch.cuda.Event:
        if self.device.type == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> float:
        return self.ended - self.started

    def waits(self) -> float:
        """Share of the time."""
        pairs = [(a, b) for a, b in self.pauses if b is not None]
        if self.device.type == "cuda":
            return sum(a.elapsed_time(b) for a, b in pairs) / 1e3 / self.seconds()
        return sum(b - a for a, b in pairs) / self.seconds()


def time_steps(bench: Bench, n_steps: int, steps: Iterator[None]) -> dict:
    for _ in range(WARM_UP):
        next(steps)
    started = now(bench.device)
    for _ in range(n_steps):
        next(steps)
    return {"seconds": now(bench.device) - started}


def time_ceiling(bench: Bench, n_steps: int) -> dict:
    def steps() -> Iterator[None]:
        module, optimizer = bench.module()
        shape = (2, bench.config.batch_size, 1, bench.config.audio_length)
        x_i, x_j = 0.1 * torch.randn(shape, device=bench.device)
        while True:
            optimizer.zero_grad()
            with bench.autocast():
                loss = module.loss_of(x_i, x_j)
            loss.backward()
            optimizer.step()
            yield

    return time_steps(bench, n_steps, steps())


def time_older(bench: Bench, n_steps: int) -> dict:
    steps = steps_of_older_recipe(bench.config, bench.store, bench.data.train, bench.device)
    return time_steps(bench, n_steps, steps)


def time_parts(bench: Bench, n_steps: int) -> dict:
    """Median milliseconds of the parts of a step, one after the other."""
    module, optimizer = bench.module()
    loader = bench.data.train_dataloader()
    crops, places = loader.dataset, list(loader.sampler)
    times: dict[str, list[float]] = {part: [] for part in PARTS}

    def timed(part: str, work: Callable[[], object]) -> object:
        started = now(bench.device)
        result = work()
        times[part].append(now(bench.device) - started)
        return result

    for step in range(WARM_UP + n_steps):
        batch = timed("read", lambda: crops[places[step % len(places)]])  # noqa: B023
        batch = timed("copy", lambda: batch.to(bench.device))  # noqa: B023
        optimizer.zero_grad()
        with bench.autocast():
            x_i, x_j = timed("augment", lambda: module.views(batch, TRAIN, step))  # noqa: B023
            *_, z_i, z_j = timed("forward", lambda: module.model(x_i, x_j))  # noqa: B023
            loss: Tensor = timed("loss", lambda: module.loss(z_i, z_j))  # noqa: B023
        timed("backward", loss.backward)
        timed("optimizer", optimizer.step)
    return {"ms": {p: 1e3 * statistics.median(t[WARM_UP:]) for p, t in times.items()}}


WAYS = {"clmr": time_clmr, "ceiling": time_ceiling, "older": time_older, "parts": time_parts}


def run_way(way: str, config: Config, n_steps: int, threads: int, keeps_memory: bool) -> dict:
    torch.set_num_threads(threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    if config.accelerator == "cpu" and keeps_memory:
        keep_freed_memory()
    bench = Bench(config)
    figures = WAYS[way](bench, n_steps)
    if "seconds" in figures:
        figures["clips_per_second"] = n_steps * config.batch_size / figures["seconds"]
    return figures | {"peak_mb": bench.peak_mb()}


def in_a_process(*arguments: object) -> dict:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run_way, *arguments).result()


# The report.


def measure(config: Config, args: argparse.Namespace) -> dict:
    plain = {"precision": "32", "compile": False, "workers": args.workers or os.cpu_count()}
    rounds: dict[str, list[dict]] = {way: [] for way in WAYS}
    for number in range(args.rounds):
        for way in WAYS:
            if way == "parts" and number:
                continue
            settings = replace(config, **plain) if way == "older" else config
            keeps = way != "older" or args.older_keeps_memory  # as training does
            rounds[way].append(in_a_process(way, settings, args.steps, args.threads, keeps))
    speed = {
        way: statistics.median(figures["clips_per_second"] for figures in rounds[way])
        for way in WAYS
        if way != "parts"
    }
    return {
        "batch": config.batch_size,
        "precision": config.precision,
        "clips_per_second": speed,
        "of_ceiling": speed["clmr"] / speed["ceiling"],
        "of_older": speed["clmr"] / speed["older"],
        "waits": statistics.median(figures["waits"] for figures in rounds["clmr"]),
        "ms": rounds["parts"][0]["ms"],
        "peak_mb": {way: figures[0]["peak_mb"] for way, figures in rounds.items()},
        "rounds": {way: figures for way, figures in rounds.items() if way != "parts"},
    }


def print_row(row: dict, device: str) -> None:
    speed, ms = row["clips_per_second"], row["ms"]
    print(f"\nbatch {row['batch']}, {row['precision']}")
    print("  ms a step, one by one: " + ", ".join(f"{part} {ms[part]:.1f}" for part in PARTS))
    for way, clips in speed.items():
        print(f"  {way:<8}{clips:>10.1f} clips/s{row['peak_mb'][way]:>10.0f} MB at the peak")
    print(f"  the device waits for data {100 * row['waits']:.1f} % of the time")
    for words, found, target in (
        ("of the ceiling", row["of_ceiling"], TARGET_OF_CEILING),
        ("times the older recipe", row["of_older"], TARGETS_OF_OLDER[device]),
    ):
        met = "met" if found >= target else "NOT MET"
        print(f"  {found:.2f} {words}, target {target}: {met}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", help="clips in a batch (GPU 48,256,1024; CPU 48)")
    parser.add_argument("--precisions", help="(GPU 32,tf32,bf16-mixed; CPU 32 and bf16 if it has)")
    parser.add_argument("--workers", type=int, help="of the older recipe (one a core)")
    parser.add_argument(
        "--older_keeps_memory", action="store_true",
        help="give the older recipe, too, what main.py tells the CPU's allocator",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, help="in a round (GPU 50, CPU 5)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--quick", action="store_true", help="batches of 12, 3 steps, one round")
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    args, flags = parser.parse_known_args()
    accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    on_gpu = accelerator == "gpu"
    best = choose_precision("auto", accelerator)
    batches = args.batches or ("12" if args.quick else "48,256,1024" if on_gpu else "48")
    precisions = args.precisions or (
        best if args.quick else "32,tf32,bf16-mixed" if on_gpu else f"{best},32"
    )
    args.steps = args.steps or (3 if args.quick else 50 if on_gpu else 5)
    args.rounds = 1 if args.quick else args.rounds
    device = torch.device("cuda" if on_gpu else "cpu")
    figures = {
        "command": "python benchmarks/step.py " + " ".join(sys.argv[1:]),
        "machine": machine(device),
        "torch": torch.__version__,
        "threads": args.threads,
        "rows": [],
    }
    print(f"{figures['machine']}, torch {torch.__version__}, {args.threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        sizes = [int(size) for size in batches.split(",")]
        write_noise(Path(folder, "noise"), 2 * max(sizes))
        where = {"dataset": "audio", "dataset_dir": f"{folder}/noise", "accelerator": accelerator}
        preprocess(replace(load_config(flags), **where))
        for size in sizes:
            for precision in dict.fromkeys(precisions.split(",")):
                settings = {"batch_size": size, "precision": precision} | where
                figures["rows"].append(measure(replace(load_config(flags), **settings), args))
                print_row(figures["rows"][-1], device.type)
    if args.out:
        write_json(figures, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
