"""What would make the comparisons of a sweep unfair, found from its specs before anything runs.

Each check is a function of the cells and of what else is known of them, and gives findings. A check that
needs a model's sizes or the default rates is silent where these are not known.
"""

from collections.abc import Sequence

from experiments.spec import RunSpec
from experiments.sweep.preview.fairness import _cells, _rates
from experiments.sweep.preview.fairness._finding import LEVELS, Finding, Known

__all__ = ["LEVELS", "Finding", "Known", "findings"]

_CHECKS = (
    _cells.seeds,
    _rates.one_rate,
    _rates.scales,
    _cells.targets,
    _cells.training,
    _cells.budgets,
    _rates.recipe,
    _rates.selection,
    _cells.single_rank,
    _cells.pruning,
    _rates.roles,
)


def findings(specs: Sequence[RunSpec], known: Known | None = None) -> list[Finding]:
    """Everything that the checks find, problems before warnings before notes."""
    cells = list(dict.fromkeys(specs))
    found = [finding for check in _CHECKS for finding in check(cells, known or Known())]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))
