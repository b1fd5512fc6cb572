"""The launcher `local`: worker processes on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from experiments.config.settings import AtEnd, Terms


@dataclass
class LocalConf:
    """hydra/launcher=local."""

    _target_: str = "hydra_plugins.ablora.local.Local"


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalConf, provider="ablora")


class Local(Launcher):
    """Gives the cells to the engine."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.hydra_context = hydra_context

    def launch_specs(self, specs: Sequence, *, at_end: AtEnd = "report") -> int:
        """Run all cells; the exit code of the command."""
        from experiments.sweep import engine

        return engine.run(specs, workers=self.config.workers, terms=Terms.of(self.config), at_end=at_end)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's own contract, for other sweepers: a run's value is its primary metric on validation."""
        from experiments.sweep.jobs import launch

        loader = self.hydra_context.config_loader
        configs = [loader.load_sweep_config(self.config, list(words)) for words in job_overrides]
        return launch(configs, job_overrides, first=initial_job_idx, run=self.launch_specs)
