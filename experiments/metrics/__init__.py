"""Metrics: modules of `evaluate` beside this file, which load with no network.

`evaluate` is imported at first use, since that costs seconds.

To add one, write experiments/metrics/<name>.py with a class derived from `evaluate.Metric` whose result has
the key <name>, and name it in the `metrics` of a task.
"""

import os
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import evaluate

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Every metric there is, by the files of this folder."""
    return sorted(file.stem for file in FOLDER.glob("*.py") if not file.stem.startswith("_"))


def compute(
    metric: str | Sequence[str], predictions: Sequence[int], references: Sequence[int]
) -> dict[str, float]:
    """The values of one metric, or of several, by name.

    Args:
        metric: A name or names; `names()` lists them.
        predictions: Class numbers.
        references: The true class numbers, in the same order.
    """
    values: dict[str, float] = {}
    for name in [metric] if isinstance(metric, str) else metric:
        result = _module(name).compute(predictions=list(predictions), references=list(references))
        values |= {key: float(value) for key, value in result.items()}
    return values


@lru_cache
def _module(name: str) -> "evaluate.EvaluationModule":
    """An instance of a metric's class.

    It asks for a folder, which nothing is written to as its inputs stay in memory.
    """
    if name not in names():
        raise UserError(
            f"there is no metric {name!r}.{did_you_mean(name, names())} Known: {', '.join(names())}. "
            f"To add one, write experiments/metrics/{name}.py"
        )
    os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")
    from evaluate.loading import import_main_class

    metric = import_main_class(f"{__name__}.{name}")
    with tempfile.TemporaryDirectory(prefix="ablora-metrics-") as folder:
        return metric(cache_dir=folder, keep_in_memory=True)
