"""The augmentation chain: time a pair of views, and distance from the reference, in one table.

    python benchmarks/augment.py [--batches 1,8,48,512] [--threads 1] [--audio DIR] [--out FILE]

A pair is two views of 59,049 samples at 22,050 Hz, with the probabilities of config.yaml. Beside
our chain runs the reference, torchaudio-augmentations example by example as its data workers run
it, with SoX where torchaudio still has it (2.8, with libsox) and else with our kernels in SoX's
place; and torch-audiomentations where it is installed, with those of its transforms that are alike.
The ways take turns, so that a machine whose speed drifts slows all. On the CPU all use --threads
threads: a data worker has one.
"""

import argparse
import importlib
import math
import multiprocessing
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
import torchaudio
from older_recipe import import_reference
from report import machine, now, write_json
from torch import Tensor

from clmr.allocator import keep_freed_memory
from clmr.audio import load_audio, pcm_to_float
from clmr.augmentations import AUGMENTATIONS, Chain, Draw, build_chain, drawn_for
from clmr.augmentations.reference import reference_steps
from clmr.config import Config
from clmr.datasets import AudioFolder
from clmr.datasets.demo import render_clip
from clmr.encoders import SampleCNN

SAMPLE_RATE, N_SAMPLES = 22050, 59049
LEVEL = 0.25  # of full scale: SoX clips within its reverb, and ours does not
PROBABILITIES = Config().transforms
CROP_S = N_SAMPLES / SAMPLE_RATE


# Sound to work on.


def excerpts(folder: Path | None, n_wanted: int = 16) -> Tensor:
    """Crops of music, the loudest sample of each at `LEVEL`, float32 `[n, 1, T]`."""
    crops = []
    clips = iter(AudioFolder(folder).clips()) if folder else iter(range(n_wanted))
    while len(crops) < n_wanted and (clip := next(clips, None)) is not None:
        if folder:
            x = pcm_to_float(load_audio(clip.path, SAMPLE_RATE))
        else:
            x = torch.from_numpy(render_clip(clip)).float()
        start = max(0, len(x) - N_SAMPLES) // 2
        x = x[start : start + N_SAMPLES]
        if len(x) == N_SAMPLES and x.std() > 0:
            crops.append(LEVEL * x / x.abs().max())
    return torch.stack(crops)[:, None]


# The reference.


def sox_of(reference: ModuleType) -> str:
    """What its pitch shift and reverb are computed by."""
    module = importlib.import_module("augment").EffectChain.__module__
    original = not module.startswith("clmr")
    return f"SoX by torchaudio {torchaudio.__version__}" if original else "our kernels for SoX"


# Time.


def time_steps(chain: Chain, x: Tensor) -> dict[str, float]:
    """Seconds of one call of the chain, by step."""
    started = now(x.device)
    draws, y = chain.draw(len(x)), x.clone()
    seconds = {"draw and copy": now(x.device) - started}
    with torch.no_grad():
        for name, step in chain.steps.items():
            started = now(x.device)
            step.apply_in_place(y, draws[name])
            seconds[name] = now(x.device) - started
    return seconds


def time_reference(steps: dict[str, Callable[[Tensor], Tensor]], x: Tensor) -> dict[str, float]:
    """Seconds of the reference on every row, one after the other, by step."""
    seconds = dict.fromkeys(steps, 0.0)
    for row in x:  # [1, T]
        for name, step in steps.items():
            started = time.perf_counter()
            row = step(row)
            seconds[name] += time.perf_counter() - started
    return seconds


def time_call(augment: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, float]:
    started = now(x.device)
    augment(x)
    return {"whole": now(x.device) - started}


def time_step(batch: int, device: torch.device) -> float:
    """Milliseconds a pair of the encoder, forward and backward, that the chain is to keep busy."""
    encoder = SampleCNN().to(device)
    x = 0.1 * torch.randn(2 * batch, 1, N_SAMPLES, device=device)
    seconds = []
    for _ in range(8):
        started = now(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = encoder(x).square().mean()
        loss.backward()
        seconds.append(now(device) - started)
    return 1e3 * statistics.median(seconds) / batch


def torch_audiomentations_chain() -> Callable[[Tensor], Tensor] | None:
    """What it has of the chain: no echo, no reverb without recorded responses."""
    try:
        import torch_audiomentations as ta
    except ImportError:
        return None
    p = PROBABILITIES
    common = {"sample_rate": SAMPLE_RATE, "output_type": "tensor"}
    filters = [
        ta.HighPassFilter(200, 1200, p=1.0, **common),
        ta.LowPassFilter(2200, 4000, p=1.0, **common),
    ]
    return ta.Compose(
        [
            ta.PolarityInversion(p=p["polarity"], **common),
            ta.Gain(-20, -1, p=p["gain"], **common),
            ta.OneOf(filters, p=p["filters"], output_type="tensor"),
            ta.PitchShift(-7, 7, p=p["pitch"], **common),
        ],
        output_type="tensor",
    )


def time_ways(
    batch: int, device: torch.device, crops: Tensor, repeats: int
) -> dict[str, list[dict[str, float]]]:
    """Milliseconds a pair of each way, `repeats` times in turn."""
    x = crops[torch.arange(2 * batch) % len(crops)].to(device)
    generator = torch.Generator().manual_seed(0)
    chain = build_chain(AUGMENTATIONS, PROBABILITIES, SAMPLE_RATE, generator)
    ways = {"clmr": partial(time_steps, chain)}
    if device.type == "cpu":
        import_reference()
        steps = reference_steps(PROBABILITIES, SAMPLE_RATE, N_SAMPLES)
        ways["reference"] = partial(time_reference, steps)
    if batch <= 48 and (other := torch_audiomentations_chain()):
        ways["torch-audiomentations"] = partial(time_call, other)
    for way in ways.values():
        way(x[: min(len(x), 16)])  # warm up
    ways["clmr"](x)
    runs = defaultdict(list)
    for _ in range(repeats):
        for name, way in ways.items():
            runs[name].append({step: 1e3 * s / batch for step, s in way(x).items()})
    return runs


# Equivalence.


def relative(y: Tensor, expected: Tensor) -> float:
    return ((y - expected).norm() / expected.norm()).item()


def snr_db(y: Tensor, expected: Tensor) -> float:
    return -20 * math.log10(max(relative(y, expected), 1e-12))


def log_mel_db(y: Tensor, expected: Tensor) -> float:
    """Mean absolute difference of mel spectrograms, of what is within 80 dB of the loudest [dB]."""
    mel = torchaudio.transforms.MelSpectrogram(SAMPLE_RATE, n_fft=1024, n_mels=64)
    a, b = (10 * torch.log10(mel(x) + 1e-12) for x in (y, expected))
    return (a - b).abs()[b > b.max() - 80].mean().item()


def fixed(reference: ModuleType, name: str, drawn: dict[str, float]) -> Callable[[Tensor], Tensor]:
    """The reference's transform with the parameters that ours drew."""
    if name == "filters":
        kind = reference.HighPassFilter if drawn["high_pass"] else reference.LowPassFilter
        return kind(SAMPLE_RATE, drawn["cutoff_hz"], drawn["cutoff_hz"])
    if name == "gain":
        return reference.Gain(drawn["gain_db"], drawn["gain_db"])
    if name == "delay":
        ms = drawn["delay_ms"]
        return reference.Delay(SAMPLE_RATE, min_delay=ms, max_delay=ms + 1, delay_interval=1)
    if name == "pitch":
        shift = reference.PitchShift(N_SAMPLES, SAMPLE_RATE)
        shift.pitch_shift_cents_min = shift.pitch_shift_cents_max = drawn["cents"]
        return shift
    if name == "reverb":
        percent = (drawn[key] for key in ("reverberance", "damping", "room_scale"))
        return reference.Reverb(SAMPLE_RATE, *(bound for k in percent for bound in (k, k + 1)))
    return {"polarity": reference.PolarityInversion, "reverse": reference.Reverse}[name]()


def reference_views(reference: ModuleType, crops: Tensor, draws: dict[str, Draw]) -> Tensor:
    """The reference on every row, with the parameters that ours drew."""
    views = []
    for row, x in enumerate(crops):
        for name, drawn in drawn_for(draws, row).items():
            x = fixed(reference, name, drawn)(x)
        views.append(x)
    return torch.stack(views)


def both_views(
    reference: ModuleType, crops: Tensor, n_rows: int, **p: float
) -> tuple[Tensor, Tensor]:
    """Ours and the reference's views, same parameters; steps that are not named are left out."""
    probabilities = dict.fromkeys(AUGMENTATIONS, 0.0) | p
    chain = build_chain(
        AUGMENTATIONS, probabilities, SAMPLE_RATE, torch.Generator().manual_seed(1)
    )
    x, draws = crops[torch.arange(n_rows) % len(crops)], chain.draw(n_rows)
    return chain.apply(x, draws), reference_views(reference, x, draws)


def worst_of(ours: Tensor, theirs: Tensor) -> float:
    return max(relative(y, e) for y, e in zip(ours, theirs, strict=True))


def equivalence(crops: Tensor, n_rows: int) -> list[dict]:
    """Rows of the table: what, figure, limit."""
    reference = import_reference()
    rows = []

    def row(what: str, value: float, limit: str, met: bool) -> None:
        rows.append({"what": what, "value": value, "target": limit, "met": met})

    for name in ("polarity", "delay"):
        worst = worst_of(*both_views(reference, crops, n_rows, **{name: 1}))
        row(f"{name}, worst relative difference", worst, "0", worst == 0)
    worst = worst_of(*both_views(reference, crops, n_rows, gain=1))
    row("gain, worst relative difference", worst, "<= 1e-6", worst <= 1e-6)
    ours, theirs = both_views(reference, crops, n_rows, filters=1)
    worst, most = worst_of(ours, theirs), (ours - theirs).abs().max().item()
    row("filter against julius, worst relative", worst, "<= 2e-5", worst <= 2e-5)
    row("filter, worst sample", most, "<= 1e-6", most <= 1e-6)
    worst = worst_of(*both_views(reference, crops, n_rows, reverb=1))
    row("reverb against the reference, worst relative", worst, "<= 3e-4", worst <= 3e-4)
    ours, theirs = both_views(reference, crops, n_rows, pitch=1)
    pairs = list(zip(ours, theirs, strict=True))
    snr = sorted(snr_db(y, e) for y, e in pairs)
    mel = statistics.median(log_mel_db(y, e) for y, e in pairs)
    median, tenth = statistics.median(snr), snr[len(snr) // 10]
    row("pitch against the reference, median SNR [dB]", median, ">= 50", median >= 50)
    row("pitch, 10th percentile of SNR [dB]", tenth, ">= 35", tenth >= 35)
    row("pitch, median log-mel distance [dB]", mel, "<= 0.1", mel <= 0.1)
    every = {k: v for k, v in PROBABILITIES.items() if k != "noise"}  # whose samples are random
    ours, theirs = both_views(reference, crops, n_rows, **(every | {"pitch": 0}))
    least = min(snr_db(y, e) for y, e in zip(ours, theirs, strict=True))
    row("chain without pitch, least SNR [dB]", least, ">= 70", least >= 70)
    ours, theirs = both_views(reference, crops, n_rows, **every)
    pairs = list(zip(ours, theirs, strict=True))
    snr = statistics.median(snr_db(y, e) for y, e in pairs)
    mel = statistics.median(log_mel_db(y, e) for y, e in pairs)
    row("chain, median SNR [dB]", snr, ">= 55", snr >= 55)
    row("chain, median log-mel distance [dB]", mel, "<= 0.05", mel <= 0.05)
    return rows


# Memory.


def peak_bytes_a_row(name: str, n_rows: int = 64) -> float:
    """Memory that a step takes for each row that it transforms at a time, beside the batch."""
    kind = AUGMENTATIONS[name]
    rate = {"sample_rate": SAMPLE_RATE} if name in ("filters", "delay", "pitch", "reverb") else {}
    step = kind(p=1.0, **rate)
    step.chunk = n_rows
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = 0.1 * torch.randn(n_rows, 1, N_SAMPLES, device=device)
    few = Draw(torch.arange(1), step.draw(1))
    many = Draw(torch.arange(n_rows), step.draw(n_rows))
    step.apply_in_place(x, few)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step.apply_in_place(x, many)
        return (torch.cuda.max_memory_allocated() - before) / n_rows
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = peak_of_process()
    step.apply_in_place(x, many)
    return (peak_of_process() - before) / n_rows


def peak_of_process() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status)[1])


def memory() -> dict[str, float]:
    """MB a row of each step, each in a process of its own."""
    with ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        names = [name for name in AUGMENTATIONS if PROBABILITIES[name]]
        return {n: b / 1e6 for n, b in zip(names, pool.map(peak_bytes_a_row, names), strict=True)}


# The report.


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    whole = {"whole": statistics.median(sum(run.values()) for run in runs)}
    return {step: statistics.median(run[step] for run in runs) for step in runs[0]} | whole


def print_times(ways: dict[str, dict[str, float]], title: str) -> None:
    print(f"\n{title:<18}" + "".join(f"{way:>24}" for way in ways))
    for step in ["draw and copy", *AUGMENTATIONS, "whole"]:
        cells = [ways[way].get(step) for way in ways]
        if any(cell is not None for cell in cells):
            texts = ["" if cell is None else f"{cell:.3f}" for cell in cells]
            print(f"{step:<18}" + "".join(f"{text:>24}" for text in texts))
    if "reference" in ways:
        print(f"reference / clmr  {ways['clmr']['reference/clmr']:>24.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", default="1,8,48,512", help="pairs in a batch")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on the CPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=64, help="views that are compared")
    parser.add_argument("--audio", type=Path, help="folder of music; else the demo's")
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    crops = excerpts(args.audio)
    figures = {
        "command": "python benchmarks/augment.py " + " ".join(sys.argv[1:]),
        "torch": torch.__version__,
        "sox": sox_of(import_reference()),
        "memory_mb_a_row": memory(),
        "times_ms_a_pair": [],
    }
    print(f"{len(crops)} excerpts, torch {torch.__version__}, reference with {figures['sox']}")
    devices = [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available()
    for device in devices:
        for batch in map(int, args.batches.split(",")):
            repeats = max(args.repeats, 32 // batch)
            runs = time_ways(batch, device, crops, repeats)
            ways = {way: medians(r) for way, r in runs.items()}
            if "reference" in runs:
                pairs = zip(runs["reference"], runs["clmr"], strict=True)
                ratio = statistics.median(sum(r.values()) / sum(c.values()) for r, c in pairs)
                ways["clmr"]["reference/clmr"] = ratio
            print_times(ways, f"ms a pair of {batch}")
            timed = {
                "machine": machine(device), "threads": args.threads, "batch": batch, "ways": ways
            }  # fmt: skip
            if device.type == "cuda":
                timed["encoder_ms_a_pair"] = time_step(batch, device)
                share = ways["clmr"]["whole"] / timed["encoder_ms_a_pair"]
                print(f"SampleCNN, bf16   {timed['encoder_ms_a_pair']:>24.3f}")
                print(f"chain / SampleCNN {share:>24.3f}")
            figures["times_ms_a_pair"].append(timed)
    print("\nMB a row that is transformed at a time, beside the batch")
    for name, megabytes in figures["memory_mb_a_row"].items():
        print(f"{name:<40}{megabytes:>12.1f}")
    figures["equivalence"] = equivalence(crops, args.rows)
    print(f"\n{args.rows} views at {LEVEL} of full scale, same parameters")
    for row in figures["equivalence"]:
        met = "met" if row["met"] else "NOT MET"
        print(f"{row['what']:<50}{row['value']:>12.3g}   {row['target']:<10}{met}")
    if args.out:
        write_json(figures, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
