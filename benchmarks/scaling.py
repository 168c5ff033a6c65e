"""What several devices cost each other: measured on one and two processes, and a model beyond.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json
    python benchmarks/scaling.py --quick

A step is augmentation, both views through the encoder, loss, backward and Adam, on crops that are
in memory; of two processes with DDP, projections of both and batch norm over both. The messages of
such a step are also sent alone, which is the share of communication. The model adds to a measured
step what its messages take among W devices:

    gradients     an all-reduce: 2 (W - 1) / W of their bytes, 2 log2 W latencies
    projections   all other devices' rows, forward and backward: log2 W latencies each
    batch norm    a layer and view: all other devices' moments forward, an all-reduce backward
    loss          one device's rows against all columns, four products at the measured rate

Nothing overlaps, and all devices are equally fast at every step: the first makes the model too slow
(DDP sends gradients during the backward pass), the second too fast.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from report import machine, now, write_json
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from clmr.allocator import keep_freed_memory
from clmr.config import Config
from clmr.job.sync_batchnorm import SyncOnCpu
from clmr.modules import ContrastiveLearning
from clmr.modules.contrastive_learning import TRAIN

WORLD_SIZES = [2**k for k in range(11)]  # to 1,024
FLOAT_BYTES = 4


class Step(nn.Module):
    """One step's loss, as a module that DDP can wrap."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.learner = ContrastiveLearning(config)

    def forward(self, crops: Tensor, number: int) -> Tensor:
        return self.learner._step(crops, TRAIN, number)


def stepper(config: Config, together: bool, device: str = "cpu") -> Callable[[], float]:
    """A function that takes a step and says how long it took [ms]; on a GPU in bf16-mixed."""
    network, crops, numbers = Step(config).to(device), crops_of(config).to(device), count()
    if together:
        network = DistributedDataParallel(SyncOnCpu().apply(network))
    optimizer = torch.optim.Adam(network.parameters(), config.learning_rate)

    def step() -> float:
        started = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = network(crops, next(numbers))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - started)

    step()  # warms up
    return step


def crops_of(config: Config) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (config.batch_size, 2, config.audio_length)
    return torch.randint(-8000, 8000, shape, generator=generator).to(torch.int16)


def message_ms(n_bytes: int) -> float:
    """Time of an all-reduce [ms], the mean of ten."""
    message = torch.zeros(n_bytes // FLOAT_BYTES)
    started = time.perf_counter()
    for _ in range(10):
        dist.all_reduce(message)
    return 1e2 * (time.perf_counter() - started)


def matmul_flops(rows: int, dims: int, device: torch.device) -> float:
    """Measured FLOP/s of a product of the loss's shape."""
    left, right = torch.randn(rows, dims, device=device), torch.randn(dims, 4096, device=device)
    times = []
    for _ in range(20):
        started = now(device)
        left @ right
        times.append(now(device) - started)
    return 2 * rows * dims * 4096 / median(times)


def sizes_of(config: Config) -> dict:
    """What a step sends, by its network."""
    learner = ContrastiveLearning(config)
    return {
        "gradient_bytes": FLOAT_BYTES * sum(p.numel() for p in learner.parameters()),
        "projection_bytes": FLOAT_BYTES * 2 * config.batch_size * config.projection_dim,
        "norm_channels": [m.num_features for m in learner.modules() if isinstance(m, _BatchNorm)],
        "loss_flop_a_device": 4 * 2 * (2 * config.batch_size) ** 2 * config.projection_dim,
    }


def model_ms(world_size: int, compute_ms: float, sizes: dict, net: dict) -> dict[str, float]:
    """Milliseconds of a step on W devices, by what they go to."""
    others, hops = world_size - 1, math.ceil(math.log2(world_size))
    latency, per_byte = 1e-3 * net["latency_us"], 1e-6 / net["gb_per_s"]  # ms
    reduce = lambda n: 2 * others / world_size * n * per_byte + 2 * hops * latency  # noqa: E731
    gather = lambda n: others * n * per_byte + hops * latency  # noqa: E731
    moments = [2 * FLOAT_BYTES * n_channels for n_channels in sizes["norm_channels"]]
    return {
        "compute": compute_ms,
        "loss": 1e3 * others * sizes["loss_flop_a_device"] / net["loss_flops"],
        "gradients": reduce(sizes["gradient_bytes"]),
        "projections": 2 * gather(sizes["projection_bytes"]),
        "batch norm": sum(2 * (gather(n) + reduce(n)) for n in moments),
    }


def messages_of_a_step(sizes: dict) -> Callable[[], float]:
    """A function that sends all that a step sends, and says how long it took [ms]."""
    of_bytes = lambda n: torch.zeros(n // FLOAT_BYTES)  # noqa: E731
    gradient, projections = of_bytes(sizes["gradient_bytes"]), of_bytes(sizes["projection_bytes"])
    moments = [torch.zeros(2 * n_channels) for n_channels in sizes["norm_channels"]]

    def send() -> float:
        started = time.perf_counter()
        dist.all_reduce(gradient)
        for message in (projections, *moments, *moments):  # batch norm in both views
            dist.all_gather([torch.empty_like(message) for _ in range(2)], message)
            dist.all_reduce(message)
        return 1e3 * (time.perf_counter() - started)

    return send


def one_process(rank: int, folder: str, config: Config, repeats: int) -> None:
    """Measure what two processes have to be two for; the first one keeps it."""
    torch.set_num_threads(1)
    keep_freed_memory()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    ways = {
        "two": stepper(config, together=True),
        "messages": messages_of_a_step(sizes_of(config)),
        "4 kB": lambda: message_ms(4096),
        "16 MB": lambda: message_ms(2**24),
    }
    ms = {way: [] for way in ways}
    for way in list(ways) * repeats:
        dist.barrier()
        ms[way].append(ways[way]())
    if rank == 0:
        torch.save({way: median(of_way) for way, of_way in ms.items()}, f"{folder}/0")
    # First what DDP holds: should it go last, it ends gloo's threads while they wait for Python.
    ways.clear()
    dist.destroy_process_group()


def measure(config: Config, repeats: int) -> dict:
    torch.set_num_threads(1)
    keep_freed_memory()
    step = stepper(config, together=False)
    ms = {"one": median(step() for _ in range(repeats))}
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(one_process, args=(folder, config, repeats), nprocs=2)
        ms |= torch.load(f"{folder}/0", weights_only=True)
    clips = 1e3 * config.batch_size
    seconds = (ms["16 MB"] - ms["4 kB"]) / 1e3
    return {
        "ms": ms,
        "clips_per_s": {"one": clips / ms["one"], "two": 2 * clips / ms["two"]},
        "communication": ms["messages"] / ms["two"],
        "net": {"latency_us": 1e3 * ms["4 kB"] / 2, "gb_per_s": 2**24 / seconds / 1e9},
    }


def print_model(title: str, compute_ms: float, config: Config, net: dict) -> list[dict]:
    sizes, rows = sizes_of(config), []
    print(f"\n{title}: {net['gb_per_s']:.3g} GB/s, {net['latency_us']:.3g} us a message")
    for world_size in WORLD_SIZES:
        parts = model_ms(world_size, compute_ms, sizes, net)
        total = sum(parts.values())
        row = {"devices": world_size, "ms": total, "efficiency": compute_ms / total, "parts": parts}
        rows.append(row | {"clips_per_s": 1e3 * world_size * config.batch_size / total})
        if world_size == 1:
            print(f"{'devices':>8}{'ms a step':>11}{'clips/s':>13}{'efficiency':>12}  ", end="")
            print("".join(f"{name:>13}" for name in parts))
        print(f"{world_size:>8}{total:>11.1f}{rows[-1]['clips_per_s']:>13,.1f}", end="")
        print(f"{compute_ms / total:>12.1%}  " + "".join(f"{ms:>13.2f}" for ms in parts.values()))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="sample_cnn")
    parser.add_argument("--batch_size", type=int, default=8, help="clips on a device")
    parser.add_argument("--repeats", type=int, default=5, help="steps, after one to warm up")
    parser.add_argument("--quick", action="store_true", help="a small encoder, 8 clips, 3 steps")
    parser.add_argument("--compute_ms", type=float, help="of a step on the modelled device")
    parser.add_argument("--gb_per_s", type=float, default=40, help="of the modelled net, a device")
    parser.add_argument("--latency_us", type=float, default=10, help="of a message there")
    parser.add_argument("--loss_tflops", type=float, help="of the loss's products there")
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    args = parser.parse_args()
    if args.quick:
        args.encoder, args.batch_size, args.repeats = "sample_cnn_small", 8, 3
    config = Config(encoder=args.encoder, batch_size=args.batch_size)
    measured = measure(config, args.repeats)
    print(f"{machine(torch.device('cpu'))}, torch {torch.__version__}, one thread a process")
    ms = measured["ms"]
    for way, clips_per_s in measured["clips_per_s"].items():
        print(f"{way:<10}{ms[way]:>10.1f} ms {clips_per_s:>9.2f} clips/s")
    print(
        f"{'messages':<10}{ms['messages']:>10.1f} ms, {measured['communication']:.1%} of two's step"
    )
    shape = 2 * args.batch_size, config.projection_dim
    here = measured["net"] | {"loss_flops": matmul_flops(*shape, torch.device("cpu"))}
    there = {"latency_us": args.latency_us, "gb_per_s": args.gb_per_s}
    there["loss_flops"] = here["loss_flops"]
    compute_ms = args.compute_ms or ms["one"]
    if torch.cuda.is_available() and not args.compute_ms:
        gpu = torch.device("cuda")
        there["loss_flops"] = matmul_flops(*shape, gpu)
        step = stepper(config, together=False, device="cuda")
        compute_ms = median(step() for _ in range(10 * args.repeats))
        print(f"{machine(gpu)}: {compute_ms:.1f} ms a step of one GPU")
    if args.loss_tflops:
        there["loss_flops"] = 1e12 * args.loss_tflops
    models = {
        "this machine's processes": print_model(
            "model, on what two processes measure here", ms["two"] - ms["messages"], config, here
        ),
        "a cluster": print_model("model, on a cluster's net", compute_ms, config, there),
    }
    parts = models["this machine's processes"][1]["parts"]
    predicted = sum(parts.values()) - parts["compute"] - parts["loss"]
    print(f"\nmessages of two: the model says {predicted:.1f} ms, measured {ms['messages']:.1f}")
    if args.out:
        figures = {
            "command": "python benchmarks/scaling.py " + " ".join(sys.argv[1:]),
            "machine": machine(torch.device("cpu")),
            "torch": torch.__version__,
            "encoder": args.encoder,
            "clips_a_device": args.batch_size,
            "sizes": sizes_of(config),
            "assumed": there,
            "model": models,
        }
        write_json(figures | measured, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
