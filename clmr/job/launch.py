"""The processes of a job: how many there are, which one this is, and who starts the others."""

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import NamedTuple

import torch
from lightning_fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from clmr.device import choose_devices
from clmr.errors import ConfigError

BY_HAND = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")  # what several nodes have to be told


@dataclass(frozen=True)
class Job:
    """The processes that train together, one for each device.

    Args:
        accelerator: `gpu` or `cpu`.
        n_devices: On each node.
        n_nodes: How many nodes.
        environment: What Lightning asks for addresses and ranks.
        starts_others: Whether this process is the one that was started by hand on its node, and
            has to start the others there.
    """

    accelerator: str
    n_devices: int
    n_nodes: int
    environment: ClusterEnvironment
    starts_others: bool = False

    @property
    def world_size(self) -> int:
        return self.n_devices * self.n_nodes

    @property
    def rank(self) -> int:
        return self.environment.global_rank()

    def start_others(self) -> list[subprocess.Popen]:
        """Run this very command once for each other device of the node, where nobody else does."""
        if not self.starts_others:
            return []
        place = {
            "MASTER_ADDR": self.environment.main_address,
            "MASTER_PORT": str(self.environment.main_port),
            "NODE_RANK": str(self.environment.node_rank()),
        }
        command = [sys.executable, *sys.orig_argv[1:]]
        return [
            subprocess.Popen(
                command,
                env=os.environ | place | {"LOCAL_RANK": str(local_rank)},
                stdin=subprocess.DEVNULL,
            )
            for local_rank in range(1, self.n_devices)
        ]


class Launched(LightningEnvironment):
    """Processes that this package starts, or a person who sets LOCAL_RANK for each."""

    creates_processes_externally = True  # so that Lightning starts none

    def __init__(self, n_devices: int) -> None:
        super().__init__()
        self.set_global_rank(self.node_rank() * n_devices + self.local_rank())


class _Started(NamedTuple):
    """What torchrun or SLURM say of the processes that they have started."""

    environment: ClusterEnvironment
    by: str
    n_devices: int
    n_nodes: int
    remedies: dict[str, str]  # what to give it, by the name of our setting


def choose_job(accelerator: str, gpus: int | None, num_nodes: int | None) -> Job:
    """Turn `--accelerator`, `--gpus` and `--num_nodes` into the processes of a job.

    Where torchrun or SLURM have started the processes, they say how many there are. A shell within
    an allocation of SLURM (its job's name is `bash` or `interactive`) has not been started by it.

    Args:
        accelerator: `auto`, `gpu` or `cpu`.
        gpus: On each node; None follows who started the processes, or is one GPU if there is one.
        num_nodes: None follows who started the processes, or is one.

    Raises:
        ConfigError: There are fewer GPUs than asked for, or other processes than asked for, or
            several nodes without an address.
    """
    started = _started()
    if started is None:
        return _by_ourselves(accelerator, gpus, num_nodes or 1)
    for name, given, found in (
        ("gpus", gpus or None, started.n_devices),
        ("num_nodes", num_nodes, started.n_nodes),
    ):
        if given not in (None, found):
            what = "processes on each node" if name == "gpus" else "nodes"
            raise ConfigError(
                f"--{name} {given}, but {started.by} says {found} {what}: leave --{name} out, or "
                f"start with {started.remedies[name]} {given}"
            )
    if accelerator == "auto" and gpus is None and not torch.cuda.device_count():
        accelerator = "cpu"
    accelerator, _ = choose_devices(accelerator, 0 if gpus == 0 else started.n_devices)
    return Job(accelerator, started.n_devices, started.n_nodes, started.environment)


def _by_ourselves(accelerator: str, gpus: int | None, n_nodes: int) -> Job:
    accelerator, n_devices = choose_devices(accelerator, gpus)
    missing = [name for name in BY_HAND if name not in os.environ]
    if n_nodes > 1 and missing:
        raise ConfigError(
            f"--num_nodes {n_nodes}, but nobody says where the nodes are: start it on each by "
            f"torchrun or srun, or set {', '.join(missing)} there"
        )
    starts_others = n_devices > 1 and "LOCAL_RANK" not in os.environ
    return Job(accelerator, n_devices, n_nodes, Launched(n_devices), starts_others)


def _started() -> _Started | None:
    if TorchElasticEnvironment.detect():
        return _by_torchrun()
    return _by_slurm() if SLURMEnvironment.detect() else None


def _by_torchrun() -> _Started:
    n_devices, n_nodes, n_all = (
        int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "WORLD_SIZE")
    )
    if n_devices * n_nodes != n_all:
        raise ConfigError(
            f"torchrun has started {n_all} processes on {n_nodes} nodes, {n_devices} of them on "
            "this one: give the same --nproc_per_node on every node"
        )
    remedies = {"gpus": "torchrun --nproc_per_node", "num_nodes": "torchrun --nnodes"}
    return _Started(TorchElasticEnvironment(), "torchrun", n_devices, n_nodes, remedies)


def _by_slurm() -> _Started:
    n_all, n_nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_NNODES", 1))
    # Only there if it was asked for, and Lightning refuses to do without.
    n_devices = int(os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(n_all // n_nodes)))
    if n_devices * n_nodes != n_all:
        raise ConfigError(
            f"SLURM says {n_all} tasks on {n_nodes} nodes and {n_devices} on each: give srun "
            f"--nodes {n_nodes} --ntasks-per-node {n_devices}, or other figures that agree"
        )
    # Lightning's own requeueing saves to another file; ours is SIGTERM and --resume auto.
    environment = SLURMEnvironment(auto_requeue=False)
    remedies = {"gpus": "srun --ntasks-per-node", "num_nodes": "srun --nodes"}
    return _Started(environment, "SLURM", n_devices, n_nodes, remedies)
