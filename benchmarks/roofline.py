"""The encoder's step against what the device can move and multiply.

    python benchmarks/roofline.py [--quick] [--batch 96] [--precisions 32,bf16-mixed] [--compile]
                                  [--encoder sample_cnn] [--out FILE]

Forward and backward of `--batch` views of 59,049 samples. Every operation that runs is asked for
its FLOP and for the bytes of its inputs and outputs. It takes at least FLOP / rate and at least
bytes / bandwidth seconds, the larger of the two; rate and bandwidth are measured here, by a large
matrix product in the same precision and by a copy. Two bounds come of that:

    bound as run   the sum over all operations, as torch runs them one by one
    bound fused    the convolutions alone, as if all between them cost no time: no code passes it
"""

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from report import machine, now, write_json
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from clmr.allocator import keep_freed_memory
from clmr.device import allow_tf32, choose_precision
from clmr.encoders import ENCODERS

N_SAMPLES = 59049
TARGET = 0.5  # of the bound, on an H200
MATRIX = {"cuda": 8192, "cpu": 2048}  # rows of the product that gives the rate
COPIED_BYTES = {"cuda": 2**32, "cpu": 2**28}
MULTIPLIES = ("convolution", "convolution_backward", "mm", "addmm", "bmm", "linear")


class Work(TorchDispatchMode):
    """FLOP and bytes of the operations that run within it: (name, FLOP, bytes) of each."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[str, float, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.name():
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
            moved = sum(t.nbytes for t in {id(t): t for t in tensors}.values())
            flop = 0
            if count := flop_registry.get(func.overloadpacket):
                flop = count(*args, **(kwargs or {}), out_val=out)
            self.operations.append((func.overloadpacket.__name__, flop, moved))
        return out


def step_of(encoder: nn.Module, x: Tensor, bf16: bool) -> Callable[[], None]:
    def step() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            h = encoder(x)
        h.float().sum().backward()
        encoder.zero_grad()

    return step


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median of single calls, after two that warm up."""
    seconds = []
    for _ in range(repeats + 2):
        started = now(device)
        work()
        seconds.append(now(device) - started)
    return statistics.median(seconds[2:])


def bandwidth(device: torch.device, repeats: int) -> float:
    """Bytes a second, read and written."""
    n_bytes = COPIED_BYTES[device.type]
    source = torch.ones(n_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * n_bytes / seconds_of(lambda: target.copy_(source), device, repeats)


def matmul_rate(device: torch.device, precision: str, repeats: int) -> float:
    """FLOP a second."""
    n = MATRIX[device.type]
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    seconds = seconds_of(lambda: a @ b, device, repeats)
    torch.backends.cuda.matmul.allow_tf32 = before
    return 2 * n**3 / seconds


def least_seconds(work: Work, rate: float, n_bytes_a_second: float) -> dict[str, float]:
    """Of a step, by the name of the operation, the longest first."""
    least: Counter[str] = Counter()
    for name, flop, moved in work.operations:
        least[name] += max(flop / rate, moved / n_bytes_a_second)
    return dict(least.most_common())


def measure(precision: str, device: torch.device, args: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    allow_tf32(precision == "tf32")
    encoder = ENCODERS[args.encoder]().to(device).train()
    step = step_of(encoder, 0.1 * torch.randn(args.batch, 1, N_SAMPLES, device=device),
                   precision == "bf16-mixed")  # fmt: skip
    with Work() as work:
        step()
    if args.compile:
        encoder.compile(dynamic=False)
    seconds = seconds_of(step, device, args.repeats)
    rate = matmul_rate(device, precision, args.repeats)
    n_bytes_a_second = bandwidth(device, args.repeats)
    least = least_seconds(work, rate, n_bytes_a_second)
    bounds = {
        "as_run": sum(least.values()),
        "fused": sum(least[name] for name in MULTIPLIES if name in least),
    }
    return {
        "precision": precision,
        "batch": args.batch,
        "flop": sum(flop for _, flop, _ in work.operations),
        "bytes": sum(moved for *_, moved in work.operations),
        "flop_per_second": rate,
        "bytes_per_second": n_bytes_a_second,
        "seconds": seconds,
        "least_seconds": least,
        "bound_seconds": bounds,
        "share": {name: bound / seconds for name, bound in bounds.items()},
    }


def print_row(row: dict, device: torch.device) -> None:
    views = row["batch"]
    print(f"\n{row['precision']}, {views} views")
    print(f"  {row['flop'] / views / 1e9:.2f} GFLOP and {row['bytes'] / views / 1e6:.0f} MB a view")
    print(f"  the device: {row['flop_per_second'] / 1e12:.2f} TFLOP/s in matrix products, "
          f"{row['bytes_per_second'] / 1e9:.1f} GB/s in copies")  # fmt: skip
    print(f"  measured       {views / row['seconds']:>10.1f} views/s")
    for name, seconds in row["bound_seconds"].items():
        reached = f"{row['share'][name]:.2f} of it reached"
        print(f"  bound {name.replace('_', ' '):<8} {views / seconds:>10.1f} views/s, {reached}")
    largest = list(row["least_seconds"].items())[:5]
    print("  of it, ms: " + ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in largest))
    if device.type == "cuda":
        met = "met" if row["share"]["as_run"] >= TARGET else "NOT MET"
        print(f"  target on an H200: {TARGET} of the bound as run: {met}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, help="views (GPU 96, CPU 16)")
    parser.add_argument("--precisions", help="(GPU 32,tf32,bf16-mixed; CPU 32 and bf16 if it has)")
    parser.add_argument("--encoder", default="sample_cnn", choices=tuple(ENCODERS))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, help="(GPU 50, CPU 5)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--quick", action="store_true", help="4 views, 3 repeats, one precision")
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    if not on_gpu:
        keep_freed_memory()  # as training does
    best = choose_precision("auto", "gpu" if on_gpu else "cpu")
    every = "32,tf32,bf16-mixed" if on_gpu else f"{best},32"
    args.batch = args.batch or (4 if args.quick else 96 if on_gpu else 16)
    args.repeats = args.repeats or (3 if args.quick else 50 if on_gpu else 5)
    precisions = args.precisions or (best if args.quick else every)
    figures = {
        "command": "python benchmarks/roofline.py " + " ".join(sys.argv[1:]),
        "machine": machine(device),
        "torch": torch.__version__,
        "threads": args.threads,
        "encoder": args.encoder,
        "compile": args.compile,
        "rows": [],
    }
    print(f"{figures['machine']}, torch {torch.__version__}, {args.threads} threads")
    for precision in dict.fromkeys(precisions.split(",")):
        figures["rows"].append(measure(precision, device, args))
        print_row(figures["rows"][-1], device)
    if args.out:
        write_json(figures, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
