"""The launcher `local`: worker processes on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore

from experiments.config.launch import OwnLauncher
from experiments.config.settings import AtEnd, Terms


@dataclass
class LocalConf:
    """hydra/launcher=local."""

    _target_: str = "hydra_plugins.ablora.local.Local"


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalConf, provider="ablora")


class Local(OwnLauncher):
    """Gives the cells to the engine."""

    def launch_specs(self, specs: Sequence, *, at_end: AtEnd = "report") -> int:
        """Run all cells; the exit code of the command."""
        from experiments.sweep import engine

        return engine.run(specs, workers=self.config.workers, terms=Terms.of(self.config), at_end=at_end)
