"""The launcher `slurm`: arrays of jobs on a cluster; conf/hydra/launcher/slurm.yaml has its keys."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Slurm(Launcher):
    """Puts the cells into the queue and returns.

    A sweeper that continues from results checks `detached` and, instead of waiting, gives `launch_after` the
    command that resumes it.
    """

    detached = True

    def __init__(self, **settings: Any) -> None:
        """`settings` are the keys of the file, to be checked by experiments.sweep.slurm.settings."""
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    def launch_specs(self, specs: Sequence) -> int:
        """Submit all cells; the exit code of the command."""
        from experiments.sweep.slurm.settings import configured
        from experiments.sweep.slurm.submit import Submitter

        self._submitter = Submitter(configured(self.settings, self.config))
        return self._submitter.submit(specs)

    def launch_after(self, command: Sequence[str]) -> None:
        """Submit a small job that runs `command` once everything that was submitted has ended.

        The job works in the folder in which this command was given, with the code as it was then: the running
        interpreter stands for the job's own.
        """
        self._submitter.submit_after(command)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's own contract, which this launcher cannot keep."""
        from experiments.errors import UserError

        raise UserError(
            "hydra/launcher=slurm returns when the runs are queued, so hydra/sweeper must be one that does "
            "not wait for their values: grid or fair."
        )
