"""A study by another of its metrics than the primary one: `--metric`.

rouge_l                   another metric of the test split
after/wikitext/perplexity what a run scored on a dataset beside its own
lm_eval/arc_easy/acc      what lm-evaluation-harness found, see `experiments.lm_eval`
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.errors import UserError, did_you_mean

LESS_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "mse", "rmse", "mae", "wer", "brier", "ece")


def by_metric(records: Mapping[str, dict[str, Any]], metric: str) -> dict[str, dict[str, Any]]:
    """The records with that metric as the primary one; of the completed runs only those that have it.

    UserError where none has it.
    """
    known = {own for content in records.values() for own in metrics_of(content)}
    validated = f"validation/{metric}"  # all that a run that tunes has
    if metric not in known:
        raise UserError(
            f"--metric {metric}: no run has been measured by it.{did_you_mean(metric, known)} "
            f"There are: {', '.join(sorted(known)) or 'none'}"
        )
    chosen = {}
    for run_id, content in records.items():
        own = metrics_of(content)
        if metric in own or validated in (content.get("metrics") or {}):
            task = metric.split("/")[1] if metric.startswith("lm_eval/") else ""
            goals = ((content.get("lm_eval") or {}).get(task) or {}).get("goals") or {}
            less = metric.rsplit("/", 1)[-1] in LESS_IS_BETTER
            before = (content.get("primary") or {}).get("metric")
            primary = {"metric": metric, "goal": goals.get(metric) or ("min" if less else "max")}
            primary |= {"instead_of": before} if before != metric else {}
            metrics = content["metrics"] | ({f"test/{metric}": own[metric]} if metric in own else {})
            chosen[run_id] = {**content, "primary": primary, "metrics": metrics}
        elif content["status"] != "completed":
            chosen[run_id] = content
    return chosen


def metrics_of(content: Mapping[str, Any]) -> dict[str, float]:
    """What a run was measured by, by the names that --metric takes."""
    metrics = content.get("metrics") or {}
    tested = {name.removeprefix("test/"): v for name, v in metrics.items() if name.startswith("test/")}
    beside = ("before/", "after/", "lm_eval/")
    return tested | {name: value for name, value in metrics.items() if name.startswith(beside)}


def samples(metric: str) -> tuple[Path, str] | None:
    """The file of a run and the column in it that hold a metric's scores; None: predictions.parquet."""
    if not metric.startswith("lm_eval/"):
        return None
    _, task, column = metric.split("/", 2)
    return Path("lm_eval") / f"{task}.parquet", column
