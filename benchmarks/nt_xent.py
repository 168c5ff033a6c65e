"""NT-Xent of large batches: time and memory of the similarity matrix whole and in strips.

    python benchmarks/nt_xent.py [--quick] [--clips 48,512,4096,16384] [--dims 64] [--out FILE]

Forward and backward of projections of `--dims` dimensions, two of each clip, in float32. Beside
our two forms runs simclr.NT_Xent. The ways take turns, so that a machine whose speed drifts slows
all; memory is the peak beside the projections, on a CPU that of a process of its own. What by its
peak at the size before would not fit into 70 % of the free memory is left out, with that figure.
--quick leaves out 16,384 clips and repeats less.
"""

import argparse
import multiprocessing
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from report import machine, now, peak_of_process, write_json
from simclr.modules import NT_Xent
from torch import Tensor, nn

from clmr.allocator import keep_freed_memory
from clmr.device import free_bytes
from clmr.losses import NTXent

TEMPERATURE = 0.5  # as CLMR
WAYS = {
    "whole": lambda n_clips: NTXent(TEMPERATURE, strips_above=10**9),
    "strips": lambda n_clips: NTXent(TEMPERATURE, strips_above=0),
    "simclr": lambda n_clips: NT_Xent(n_clips, TEMPERATURE, world_size=1),
}
CLIPS, QUICK_CLIPS = "48,512,4096,16384", "48,512,4096"
ROOM = 0.7  # of the free memory


def projections(n_clips: int, n_dims: int, device: torch.device) -> list[Tensor]:
    z_i, noise = torch.randn(2, n_clips, n_dims, generator=torch.Generator().manual_seed(0))
    return [z.to(device).requires_grad_() for z in (z_i, 0.7 * z_i + noise)]


def step(loss: nn.Module, z: list[Tensor]) -> tuple[Tensor, ...]:
    """Loss and gradients."""
    value = loss(*z)
    return value.detach(), *torch.autograd.grad(value, z)


# Time.


def time_ways(ways: list[str], z: list[Tensor], repeats: int) -> dict[str, float]:
    """Median milliseconds of a step."""
    losses = {way: WAYS[way](len(z[0])) for way in ways}
    seconds = {way: [] for way in ways}
    for _ in range(repeats):
        for way, loss in losses.items():
            step(loss, z)  # what the way before left of memory and caches slows this one
            started = now(z[0].device)
            step(loss, z)
            seconds[way].append(now(z[0].device) - started)
    return {way: 1e3 * statistics.median(s) for way, s in seconds.items()}


def worst_difference(z: list[Tensor]) -> float:
    """Strips against the whole matrix: the largest of loss and gradients, relative."""
    ours, whole = (step(WAYS[way](len(z[0])), z) for way in ("strips", "whole"))
    pairs = zip(ours, whole, strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


# Memory.


def peak_bytes(way: str, n_clips: int, n_dims: int, device: torch.device) -> int:
    loss, z = WAYS[way](n_clips), projections(n_clips, n_dims, device)
    step(WAYS[way](2), projections(2, n_dims, device))  # what the first call alone takes
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(loss, z)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = peak_of_process()
    step(loss, z)
    return peak_of_process() - before


def peak_in_a_process(*arguments) -> int:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool:
        return pool.submit(peak_bytes, *arguments).result()


# The report.


def measure(n_clips: int, before: dict | None, device: torch.device, args) -> dict:
    """Figures of one size; `before` are those of the size before it."""
    needs = {way: 0.0 for way in WAYS}
    if before:
        growth = (n_clips / before["clips"]) ** 2
        needs = {way: growth * before["peak_mb"].get(way, 0) for way in WAYS}
        needs |= {way: growth * mb for way, mb in before["left_out_mb"].items()}
    room = ROOM * free_bytes(device) / 1e6
    ways = [way for way in WAYS if needs[way] <= room]
    z = projections(n_clips, args.dims, device)
    repeats = 3 if args.quick else max(3, 2048 // n_clips)
    figures = {
        "machine": machine(device),
        "clips": n_clips,
        "ms": time_ways(ways, z, repeats),
        "peak_mb": {way: peak_in_a_process(way, n_clips, args.dims, device) / 1e6 for way in ways},
        "left_out_mb": {way: need for way, need in needs.items() if way not in ways},
    }
    if "whole" in ways:
        figures["worst_difference"] = worst_difference(z)
    return figures


def print_figures(figures: dict) -> None:
    for way in WAYS:
        size = f"{figures['clips']:>8}  {way:<10}"
        if way in figures["ms"]:
            print(f"{size}{figures['ms'][way]:>12.2f}{figures['peak_mb'][way]:>12.1f}")
        else:
            gigabytes = figures["left_out_mb"][way] / 1e3
            print(f"{size}   left out: it would take about {gigabytes:.0f} GB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", help=f"in a batch, ascending ({CLIPS})")
    parser.add_argument("--dims", type=int, default=64, help="of a projection")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on the CPU")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_CLIPS}, three repeats")
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as training does
    sizes = args.clips or (QUICK_CLIPS if args.quick else CLIPS)
    figures = {
        "command": "python benchmarks/nt_xent.py " + " ".join(sys.argv[1:]),
        "torch": torch.__version__,
        "threads": args.threads,
        "dims": args.dims,
        "sizes": [],
    }
    for device in [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available():
        print(f"{machine(device)}, torch {torch.__version__}, {args.dims} dimensions")
        print(f"{'clips':>8}  {'way':<10}{'ms a step':>12}{'peak MB':>12}")
        before = None
        for n_clips in map(int, sizes.split(",")):
            before = measure(n_clips, before, device, args)
            figures["sizes"].append(before)
            print_figures(before)
    worst = max(size.get("worst_difference", 0) for size in figures["sizes"])
    met = "met" if worst <= 1e-5 else "NOT MET"
    print(f"strips against whole, worst relative difference {worst:.2g}   <= 1e-5   {met}")
    if args.out:
        write_json(figures, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
