"""The sweeper `fair`: each cell is tuned on validation, confirmed on other seeds and tested once."""

from collections.abc import Mapping
from typing import Any

from experiments.config.launch import OwnSweeper


class Fair(OwnSweeper):
    """Plans one round of runs after the other. conf/hydra/sweeper/fair.yaml explains the settings."""

    def __init__(self, *, params: Mapping[str, Any], **settings: Any):
        self.params, self.settings = params, settings

    def run(self) -> int:
        """Run round after round."""
        from experiments.sweep.tuning import rounds

        return rounds.run(self.command, self.settings, self.launcher)
