"""The sweeper `grid`: the product of a command's words, all checked before anything starts."""

import sys
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
    """Hands all cells at once to the launcher, as specs if it takes them."""

    def __init__(self, params: Mapping[str, Any]):
        self.params = params

    def sweep(self, arguments: list[str]) -> Any:
        """Run every cell; the process ends here unless all went well."""
        from experiments.config.messages import plain_errors
        from experiments.sweep.jobs import values_of

        runs = self.command.runs
        if hasattr(self.launcher, "launch_specs"):
            with plain_errors():  # Hydra would print a traceback
                code = self.launcher.launch_specs(runs)
            return sys.exit(code) if code else code
        distinct = dict(zip(runs, self.command.spellings(), strict=True))
        return values_of(self.launcher.launch(list(distinct.values()), initial_job_idx=0))
