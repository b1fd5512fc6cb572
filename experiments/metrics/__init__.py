"""Metrics: modules of `evaluate` in the folders beside this file, which load with no network.

A folder holds what can be measured of one kind of prediction: class numbers, sets of them, values, answers.
`evaluate` is imported at first use, since that costs seconds.

To add one, write experiments/metrics/<folder>/<name>.py with a class derived from one in `_base` whose result
has the key <name>. Its class says whether more is better (`goal`) and whether it is a mean over examples.
"""

import os
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import UserError, did_you_mean
from experiments.metrics import resampling

if TYPE_CHECKING:
    from experiments.metrics._base import Metric

FOLDER = Path(__file__).parent
ROOMS = ("classes", "sets", "values", "answers")
# Metrics that a kind of task takes from likelihoods itself: the goal, and whether it is a mean over examples.
LIKELIHOODS = {
    "loss": ("min", True),
    "perplexity": ("min", False),
    "bits_per_byte": ("min", True),
    "accuracy": ("max", True),
    "accuracy_per_token": ("max", True),
    "accuracy_per_character": ("max", True),
}

# From nothing right to all right. A metric that is not here has no bounds, as a loss.
SPANS = {
    **dict.fromkeys(("accuracy", "accuracy_per_token", "accuracy_per_character", "exact_match"), 1.0),
    **dict.fromkeys(("f1", "macro_f1", "micro_f1", "token_f1", "rouge_l"), 1.0),
    **dict.fromkeys(("matthews", "pearson", "spearman"), 1.0),
    **dict.fromkeys(("bleu", "bleu_lowercase", "chrf"), 100.0),
}


def names(room: str | None = None) -> list[str]:
    """Every metric there is, or those of one folder, by their files."""
    rooms = ROOMS if room is None else (room,)
    files = {file.stem for part in rooms for file in (FOLDER / part).glob("*.py")}
    return sorted(name for name in files if not name.startswith("_"))


def goal(name: str) -> str:
    """Whether more of a metric is better: "max", or "min"."""
    return LIKELIHOODS[name][0] if name in LIKELIHOODS else _module(name, None).goal


def is_mean(name: str) -> bool:
    """Whether a metric is a mean over examples."""
    return LIKELIHOODS[name][1] if name in LIKELIHOODS else _module(name, None).is_mean


def compute(
    metric: str | Sequence[str],
    predictions: Sequence[Any],
    references: Sequence[Any],
    room: str | None = None,
) -> dict[str, float]:
    """The values of one metric, or of several, by name.

    Args:
        metric: A name or names; `names()` lists them.
        predictions: Class numbers, sets of them, values or texts, as the metric takes them.
        references: What is right, in the same order; of answers a list of right ones each.
        room: The folder of the metrics, for a name that several have; None: the first that has it.
    """
    values: dict[str, float] = {}
    for name in [metric] if isinstance(metric, str) else metric:
        result = _module(name, room).compute(predictions=list(predictions), references=list(references))
        values |= {key: float(value) for key, value in result.items()}
    return values


def per_example(
    name: str, predictions: Sequence[Any], references: Sequence[Any], room: str | None = None
) -> list[float]:
    """Each example's part in a metric that is a mean over examples."""
    module = _module(name, room)
    return [module.one(p, r) for p, r in zip(predictions, references, strict=True)]


def statistics(
    wanted: Sequence[str], predictions: Sequence[Any], references: Sequence[Any], room: str | None = None
) -> dict[str, list[list[float]]]:
    """Columns `statistics/<metric>` of the wanted metrics that `resampling` can make of other samples."""
    able = [name for name in wanted if name in resampling.names() and name in names(room)]
    found = {name: _module(name, room).statistics(list(predictions), list(references)) for name in able}
    return {f"statistics/{name}": rows for name, rows in found.items() if rows is not None}


def unfit(name: str, kind: str, allowed: Sequence[str]) -> str:
    """Why a kind of task cannot have a metric, for an error."""
    known = name in names() or name in LIKELIHOODS
    what = f"is not for a task of {kind}" if known else "is no metric"
    return f"dataset.metrics: {name} {what}.{did_you_mean(name, allowed)} Take some of {', '.join(allowed)}"


@lru_cache
def _module(name: str, room: str | None) -> "Metric":
    """An instance of a metric's class.

    It asks for a folder, which nothing is written to as its inputs stay in memory.
    """
    found = next((r for r in ROOMS if room in (None, r) and name in names(r)), None)
    if found is None:
        known = names(room)
        raise UserError(
            f"there is no metric {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}. "
            f"To add one, write experiments/metrics/{room or ROOMS[0]}/{name}.py"
        )
    os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")
    from evaluate.loading import import_main_class

    metric = import_main_class(f"{__name__}.{found}.{name}")
    with tempfile.TemporaryDirectory(prefix="ablora-metrics-") as folder:
        return metric(cache_dir=folder, keep_in_memory=True)
