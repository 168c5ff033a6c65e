"""How many processes a job has, by the settings and by what has started them."""

import pytest
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from clmr.errors import ConfigError
from clmr.job.launch import choose_job

# What torchrun and SLURM set for the last of eight processes on two nodes, as their manuals say.
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_WORLD_SIZE": "2",
    "WORLD_SIZE": "8",
    "RANK": "7",
    "LOCAL_RANK": "3",
    "GROUP_RANK": "1",
}
SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_JOB_NAME": "clmr",
    "SLURM_NTASKS": "8",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_NNODES": "2",
    "SLURM_PROCID": "7",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "1",
    "SLURM_NODELIST": "gpu[07-08]",
}
NAMES = {*TORCHRUN, *SLURM, "MASTER_ADDR", "MASTER_PORT", "NODE_RANK"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """A function that sets variables, of which none is set before."""
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is taken back
        monkeypatch.delenv(name)
    # Lightning keeps the rank of the last one for all that only the first process does.
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)

    def set_all(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


def figures(job):
    return job.n_devices, job.n_nodes, job.world_size, job.rank


@pytest.mark.parametrize("started", [TORCHRUN, SLURM], ids=["torchrun", "slurm"])
@pytest.mark.parametrize("gpus", [None, 0, 4])
@pytest.mark.parametrize("num_nodes", [None, 2])
def test_figures_that_are_not_given_follow_who_started_the_processes(
    environment, started, gpus, num_nodes
):
    environment(**started)
    accelerator = "cpu" if gpus else "auto"
    job = choose_job(accelerator, gpus, num_nodes)
    assert figures(job) == (4, 2, 8, 7)
    assert job.accelerator == "cpu"
    assert job.environment.creates_processes_externally
    assert not job.starts_others


@pytest.mark.parametrize(
    ("started", "gpus", "num_nodes", "reason"),
    [
        (TORCHRUN, 2, None, r"--gpus 2, but torchrun says 4 processes .* --nproc_per_node 2$"),
        (TORCHRUN, None, 3, r"--num_nodes 3, but torchrun says 2 nodes.* torchrun --nnodes 3$"),
        (SLURM, 2, None, r"--gpus 2, but SLURM says 4 processes .* srun --ntasks-per-node 2$"),
        (SLURM, 4, 1, r"--num_nodes 1, but SLURM says 2 nodes: leave .* srun --nodes 1$"),
    ],
)
def test_figures_that_contradict_are_refused_with_both_and_the_remedy(
    environment, started, gpus, num_nodes, reason
):
    environment(**started)
    with pytest.raises(ConfigError, match=reason):
        choose_job("cpu", gpus, num_nodes)


def test_gpus_are_taken_where_there_are_as_many_as_processes(environment, monkeypatch):
    environment(**TORCHRUN)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert choose_job("auto", None, None).accelerator == "gpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(ConfigError, match="--gpus 4 .* finds 3 GPUs"):
        choose_job("auto", None, None)


def test_tasks_of_slurm_are_shared_out_where_it_does_not_say_how(environment):
    environment(**{k: v for k, v in SLURM.items() if k != "SLURM_NTASKS_PER_NODE"})
    assert figures(choose_job("cpu", None, None)) == (4, 2, 8, 7)


def test_unequal_nodes_are_refused(environment):
    environment(**SLURM | {"SLURM_NTASKS": "7"})
    with pytest.raises(ConfigError, match="SLURM says 7 tasks on 2 nodes and 4 on each"):
        choose_job("cpu", None, None)
    environment(**TORCHRUN | {"WORLD_SIZE": "7"})
    with pytest.raises(ConfigError, match="torchrun has started 7 processes on 2 nodes, 4 of them"):
        choose_job("cpu", None, None)


def test_lightning_does_not_requeue_beside_us(environment):
    environment(**SLURM)
    assert not choose_job("cpu", None, None).environment.auto_requeue


def test_the_first_of_slurms_nodes_is_where_all_meet(environment):
    environment(**SLURM)
    assert choose_job("cpu", None, None).environment.main_address == "gpu07"


@pytest.mark.parametrize("name", ["bash", "interactive"])
def test_a_shell_in_an_allocation_of_slurm_is_no_process_that_it_started(environment, name):
    environment(**SLURM | {"SLURM_JOB_NAME": name, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"})
    job = choose_job("cpu", 3, None)
    assert figures(job) == (3, 1, 3, 0)
    assert job.starts_others


@pytest.mark.parametrize(("gpus", "n"), [(None, 1), (0, 1), (1, 1), (3, 3)])
def test_python_alone_starts_as_many_as_it_is_told(gpus, n):
    job = choose_job("cpu", gpus, None)
    assert figures(job) == (n, 1, n, 0)
    assert job.starts_others == (n > 1)


def test_a_process_with_a_local_rank_starts_no_others(environment):
    environment(LOCAL_RANK="2")
    job = choose_job("cpu", 3, None)
    assert job.rank == 2
    assert not job.starts_others


def test_nodes_started_by_hand_know_their_rank_or_are_told_what_is_missing(environment):
    environment(MASTER_ADDR="gpu07")
    with pytest.raises(ConfigError, match="torchrun or srun, or set MASTER_PORT, NODE_RANK there"):
        choose_job("cpu", 4, 2)
    environment(MASTER_PORT="12345", NODE_RANK="1")
    job = choose_job("cpu", 4, 2)
    assert figures(job) == (4, 2, 8, 4)
    assert (job.environment.main_address, job.environment.main_port) == ("gpu07", 12345)
    assert job.starts_others
