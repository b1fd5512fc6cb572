"""The table that a sweep ends with: one row per cell, on as many columns as the terminal has."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from experiments.record import cell_key

COLOURS = {"completed": "green", "diverged": "yellow", "preempted": "yellow", "oom": "red", "failed": "red"}
_NUMBER = re.compile(r"[\d.]+(e[-+]?\d+)?")
_CELL = ("variant", "r", "targets", "model", "dataset", "lr")
_NUMBERS = ("r", "lr", "seeds", "val", "test", "range", "ms/step")
_OF_A_RUN = ("seed", "repeat", "study", "signatures", "train.threads", "model_options.path")
_FIRST_TO_GO = ("ms/step", "range", "seeds", "targets", "val")  # where the terminal is too narrow for all


def results_table(records: Iterable[Mapping[str, Any]], *, width: int = 80) -> Table:
    """One row per cell: what differs, the primary metric's mean over seeds, step time, how the runs ended.

    On fewer than `width` columns the less telling columns are left out. Repeats of a run add no seed.
    """
    cells: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if not record["spec"].get("repeat"):
            cells.setdefault(cell_key(record["spec"]), []).append(record)
    named = [
        record["primary"]["metric"] for group in cells.values() for record in group if "primary" in record
    ]
    metric = str(named[0]) if named else "metric"
    specs = [group[0]["spec"] for group in cells.values()]
    keys = {key: key for key in _CELL} | {_title(key): key for key in distinguishing(specs, _CELL)}
    rows: list[dict[str, str | Text]] = [
        {
            **{title: _word(value_at(group[0]["spec"], key)) for title, key in keys.items()},
            **_measured(group, metric),
            "status": _statuses(group),
        }
        for group in cells.values()
    ]
    rows.sort(key=lambda row: _order([str(row[title]) for title in keys]))
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=metric, title_justify="left"
    )
    for key in _columns(rows, width):
        table.add_column(key, justify="right" if key in _NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*(row[str(column.header)] for column in table.columns))
    return table


def _title(key: str) -> str:
    return key.rpartition(".")[2]


def _columns(rows: Sequence[Mapping[str, str | Text]], width: int) -> list[str]:
    """The columns that say something and fit."""
    kept = list(rows[0]) if rows else []
    for key in ("model", "dataset", "lr", "range"):
        if kept and len({str(row[key]) for row in rows}) == 1:
            kept.remove(key)
    for key in _FIRST_TO_GO:
        wide = sum(max(len(name), *(len(str(row[name])) for row in rows)) + 2 for name in kept)
        if wide > width and key in kept:
            kept.remove(key)
    return kept


def _measured(group: Sequence[Mapping[str, Any]], metric: str) -> dict[str, str]:
    """The figures of one row, over the runs that completed."""
    done = [record for record in group if record["status"] == "completed"]
    test = _numbers(done, "metrics", f"test/{metric}")
    return {
        "seeds": str(len({record["spec"].get("seed") for record in group})),
        "val": _mean(_numbers(done, "metrics", f"validation/{metric}"), 3),
        "test": _mean(test, 3),
        "range": f"{min(test):.3f}-{max(test):.3f}" if len(test) > 1 else "",
        "ms/step": _mean(_numbers(done, "cost", "step_ms"), 0),
    }


def _statuses(group: Sequence[Mapping[str, Any]]) -> Text:
    counts = Counter(str(record["status"]) for record in group)
    parts = [
        (name if len(counts) == 1 else f"{n} {name}", COLOURS.get(name, "red")) for name, n in counts.items()
    ]
    return Text(", ").join(Text(word, style=colour) for word, colour in parts)


def _numbers(records: Sequence[Mapping[str, Any]], part: str, key: str) -> list[float]:
    return [float(record[part][key]) for record in records if key in record.get(part, {})]


def _mean(values: Sequence[float], digits: int) -> str:
    return f"{sum(values) / len(values):.{digits}f}" if values else "-"


def _word(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _order(cell: Sequence[str]) -> list[tuple[bool, float, str]]:
    """Numbers by size, words by alphabet."""
    return [
        (not _NUMBER.fullmatch(word), float(word) if _NUMBER.fullmatch(word) else 0.0, word) for word in cell
    ]


def distinguishing(specs: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> list[str]:
    """The dotted keys in which cells differ that are equal in all keys that are shown.

    Args:
        specs: The spec of each cell, as a record has it.
        shown: Keys that have a column.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for spec in specs:
        groups[tuple(str(spec.get(key)) for key in shown)].append(dict(_flat(spec)))
    found: dict[str, None] = {}
    for group in groups.values():
        for key in dict.fromkeys(key for spec in group for key in spec):
            if len({str(spec.get(key)) for spec in group}) > 1 and key not in _OF_A_RUN:
                found[key] = None
    return list(found)


def value_at(spec: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    part, _, last = key.rpartition(".")
    return (spec.get(part) or {}).get(last) if part else spec.get(key)


def _flat(spec: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in spec.items():
        if key == "tracker":
            continue
        if isinstance(value, Mapping) and not prefix:
            yield from _flat(value, f"{key}.")
        else:
            yield f"{prefix}{key}", value
