"""The launcher `slurm`: arrays of jobs on a cluster; conf/hydra/launcher/slurm.yaml has its keys."""

from collections.abc import Sequence
from typing import Any

from experiments.config.launch import OwnLauncher


class Slurm(OwnLauncher):
    """Puts the cells into the queue and returns.

    A sweeper that continues from results checks `detached` and, instead of waiting, gives `launch_after` the
    command that resumes it.
    """

    detached = True

    def __init__(self, **settings: Any) -> None:
        """`settings` are the keys of the file, to be checked by experiments.sweep.slurm.settings."""
        self.settings = settings

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
