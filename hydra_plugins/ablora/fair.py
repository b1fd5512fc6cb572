"""The sweeper `fair`: each cell is tuned on validation, confirmed on other seeds and tested once."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config.launch import OwnSweeper


class Fair(OwnSweeper):
    """Plans one round of runs after the other. conf/hydra/sweeper/fair.yaml explains the settings."""

    def __init__(
        self,
        *,
        params: Mapping[str, Any],
        tune: Sequence[str],
        factors: Sequence[float],
        tune_seeds: Sequence[int],
        confirm_seeds: Sequence[int],
        extensions: int,
        launched: int,
        halving: int | None = None,
    ):
        self.params = params
        self.settings = {
            "tune": tune,
            "factors": factors,
            "tune_seeds": tune_seeds,
            "confirm_seeds": confirm_seeds,
            "extensions": extensions,
            "launched": launched,
            "halving": halving,
        }

    def sweep(self, arguments: list[str]) -> Any:
        """Run round after round; the process ends here unless all went well."""
        from experiments.config.messages import plain_errors
        from experiments.sweep.tuning import rounds

        with plain_errors():  # Hydra would print a traceback
            code = rounds.run(self.command, self.settings, self.launcher)
        return sys.exit(code) if code else code
