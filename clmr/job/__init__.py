"""The processes of a job: how many, acting as one, and none outliving another."""

from clmr.job.launch import Job, choose_job
from clmr.job.sync_batchnorm import SyncOnCpu
from clmr.job.team import Team, together

__all__ = ["Job", "SyncOnCpu", "Team", "choose_job", "together"]
