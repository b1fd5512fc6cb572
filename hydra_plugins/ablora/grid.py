"""The sweeper `grid`: the product of a command's words, all checked before anything starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from experiments.config.launch import OwnSweeper


@dataclass
class GridConf:
    """hydra/sweeper=grid."""

    _target_: str = "hydra_plugins.ablora.grid.Grid"
    params: dict[str, Any] = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridConf, provider="ablora")


class Grid(OwnSweeper):
    """Hands all cells at once to the launcher."""

    def __init__(self, params: Mapping[str, Any]):
        self.params = params

    def run(self) -> int:
        """Run every cell."""
        return int(self.launcher.launch_specs(self.command.runs))
