"""The table of runs: which columns a record becomes, and their types."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from analysis.runs import identity
from analysis.runs.failures import Place, split_of

Row = Mapping[Any, Any]  # of any table of this package: values by column


class Problem(NamedTuple):
    """A folder that the report could not use as it is."""

    run: str
    what: str


COSTS = (
    "train_seconds", "step_ms", "step_ms_low", "step_ms_high", "busy_cores", "load_per_core",
    "tokens_per_second", "peak_bytes", "trainable_parameters", "total_parameters", "adapter_bytes",
    "base_bytes",
)  # fmt: skip
SHOWN_COSTS = (  # in a table of results, in its order
    "trainable_parameters", "share", "step_ms", "tokens_per_second", "peak_bytes", "adapter_bytes",
    "train_seconds",
)  # fmt: skip


def row_of(
    content: dict[str, Any], folder: str, tuned: Sequence[str], place: Place | None = None
) -> dict[str, Any]:
    """The columns of one run in the table of runs.

    Args:
        content: its record.
        folder: the name of its folder.
        tuned: the keys between whose values tuning chose.
        place: where a run without a result counts.
    """
    content = content if place is None else {**content, "primary": place.primary}
    done = content["status"] == "completed"
    split = split_of(content) if done else place.split if place else None
    spec, metrics, primary = content["spec"], content.get("metrics") or {}, content.get("primary") or {}
    cost, data, env = (content.get(part) or {} for part in ("cost", "data", "env"))
    metric = primary.get("metric")
    total, trained = cost.get("total_parameters"), cost.get("trainable_parameters")
    return {
        "run_id": content["run_id"],
        "folder": folder,
        "status": content["status"],
        "phase": content.get("phase", "run"),
        "tuned": ",".join(tuned),
        "variant": str(spec["variant"]),
        "method": spec.get("method"),
        "r": spec.get("r"),
        "matched": spec.get("matched"),
        "alpha": spec.get("alpha"),
        "targets": identity.text(spec["targets"]) if "targets" in spec else None,
        "model": identity.model(spec),
        "dataset": identity.dataset(spec),
        "lr": spec.get("lr"),
        "seed": spec["seed"],
        "again": int(spec.get("repeat", 0)),
        "scale": identity.scale(spec),
        "scaled_rank": identity.scaled_rank(spec),
        "rung": identity.rung(content),
        "cell_key": identity.cell_key(content),
        "peer_key": identity.peer_key(content, tuned),
        "group_key": identity.group_key(content, tuned),
        "curve_key": identity.curve_key(content, tuned),
        "stack": place.stack if place else identity.stack(content),
        "metric": metric,
        "goal": primary.get("goal"),
        "sign": -1.0 if primary.get("goal") == "min" else 1.0,  # of "better"
        "split": split,
        "score": metrics.get(f"{split}/{metric}"),
        "validation": metrics.get(f"validation/{metric}"),
        "loss": metrics.get(f"{split}/loss"),
        "validation_loss": metrics.get("validation/loss"),
        **{key: cost.get(key) for key in COSTS},
        "share": trained / total if trained is not None and total else None,
        "test_rows": data.get("test_rows"),
        "device": env.get("device"),
        "host": env.get("host"),
    }


_SHARED_TEXT = (
    "variant", "method", "targets", "model", "dataset", "cell_key", "peer_key", "group_key", "curve_key",
    "stack", "metric", "goal", "split",
)  # fmt: skip
_SHARED_NUMBERS = ("r", "matched", "alpha", "lr", "scale", "scaled_rank", "rung", "sign")
SHARED = (*_SHARED_TEXT, *_SHARED_NUMBERS)  # what all runs of a cell have in common
MEASURED = ("validation", "loss", "validation_loss", *COSTS, "share", "test_rows")  # beside the score

_TEXT = ("run_id", "folder", "status", "phase", "tuned", *_SHARED_TEXT, "device", "host")
_NUMBERS = (*_SHARED_NUMBERS, "score", *MEASURED)
_COUNTS = ("seed", "again")


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its texts and its columns' names as Python's own strings.

    Pandas keeps texts in Arrow's arrays, where each row that is taken costs a call into Arrow; the tables of
    a report are small and walked row by row.
    """
    texts = [name for name, kind in table.dtypes.items() if isinstance(kind, pd.StringDtype)]
    table = table.astype(dict.fromkeys(texts, object))
    table.columns = table.columns.astype(object)
    return table


def each(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """The rows of a table, one by one; on small tables with many columns far faster than pandas' own ways."""
    names = list(table)
    return [dict(zip(names, row, strict=True)) for row in table.to_numpy(object).tolist()]


def table_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The table of runs, indexed by run_id, with the same columns and types however many rows there are."""
    table = pd.DataFrame(rows, columns=[*_TEXT, *_NUMBERS, *_COUNTS], dtype=object)
    kinds = {name: "object" for name in _TEXT} | {name: "float64" for name in _NUMBERS}
    kinds |= {name: "int64" for name in _COUNTS}
    return plain(table.astype(kinds).set_index("run_id", drop=False))
