"""Rows of a history as W&B holds them, and in what two lots of them differ.

W&B's own step only counts what was logged; ours goes along as the column "train/step", which is every plot's
axis. So a row that is missing can be added at any later time, and stands in its place.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.errors import plural
from experiments.history import finite
from experiments.record import RunFolder, read_history

STEP = "train/step"
_TOLERANCE = 1e-6  # relative: the same row, computed again on a GPU or after memory ran out
Row = Mapping[str, Any]
Identity = tuple[float, tuple[str, ...]]


def shown(row: Row) -> dict[str, Any]:
    """A row of history.jsonl, or one on its way there, as it is logged."""
    return {**{key: value for key, value in finite(row).items() if key != "step"}, STEP: row["step"]}


def local_rows(folder: RunFolder) -> list[dict[str, Any]]:
    """The rows of history.jsonl as they are logged."""
    return [shown(row) for row in read_history(folder.history) if "step" in row]


def own(row: Row) -> dict[str, Any]:
    """A row read back, without W&B's columns (_step, _timestamp, ...) and without empty ones."""
    return {key: value for key, value in row.items() if not key.startswith("_") and value is not None}


def identity(row: Row) -> Identity:
    """What makes a row this one: its step and its columns; training and validation rows may share a step.

    Ranks are no part of it: a row has those that are new, which a row computed again may have otherwise.
    """
    return row[STEP], tuple(sorted(key for key in row if key != STEP and not key.startswith("rank/")))


def identities(rows: Iterable[Row]) -> set[Identity]:
    """Those of all rows that have a step of ours."""
    return {identity(row) for row in rows if STEP in row}


def last_values(rows: Iterable[Row]) -> dict[str, Any]:
    """The last value of each column, which is what a W&B summary shows."""
    values: dict[str, Any] = {}
    for row in sorted(rows, key=lambda row: row[STEP]):
        values |= row
    values.pop("nonfinite", None)
    return values


@dataclass(frozen=True)
class Difference:
    """What another copy of a history has otherwise than the run's own file."""

    missing: list[Row] = field(default_factory=list)  # rows that the copy lacks
    repeated: list[Identity] = field(default_factory=list)  # that it has more than once
    foreign: list[Identity] = field(default_factory=list)  # that the file lacks
    changed: list[Identity] = field(default_factory=list)  # with other values

    def describe(self) -> str:
        """E.g. "12 rows missing (steps 41 to 52), 1 row twice"; empty where nothing differs."""
        missing = [identity(row) for row in self.missing]
        parts = [
            (missing, "missing"),
            (self.repeated, "more than once"),
            (self.foreign, "not in history.jsonl"),
            (self.changed, "with other values"),
        ]
        return ", ".join(
            f"{plural(len(found), 'row')} {what}{_steps(found)}" for found, what in parts if found
        )


def compare_rows(local: Iterable[Row], copy: Iterable[Row]) -> Difference:
    """In what `copy` differs from `local`, row by row; both as they are logged."""
    expected = {identity(row): row for row in local}
    held = [row for row in copy if STEP in row]
    counts = Counter(identity(row) for row in held)
    return Difference(
        missing=[row for key, row in expected.items() if key not in counts],
        repeated=[key for key, count in counts.items() if count > 1],
        foreign=[key for key in counts if key not in expected],
        changed=sorted({key for row in held if not _equal(expected.get(key := identity(row), row), row)}),
    )


def equal_values(one: Any, other: Any) -> bool:
    """Whether two values are the same, numbers up to rounding."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=1e-12)
    return one == other


def _equal(one: Row, other: Row) -> bool:
    return all(equal_values(one.get(key), other.get(key)) for key in one.keys() | other.keys())


def _steps(found: Sequence[Identity]) -> str:
    first, last = min(found)[0], max(found)[0]
    return f" (step {first:g})" if first == last else f" (steps {first:g} to {last:g})"
