"""What a check of fairness says, what it may know beside the cells, and the words that checks share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.sizing.counts import Count
from experiments.spec import RunSpec

LEVELS = ("problem", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing to know before the runs are compared."""

    level: str  # one of LEVELS
    what: str  # a sentence with the numbers
    why: str  # half a sentence
    remedy: str  # a sentence

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}"


@dataclass(frozen=True)
class Known:
    """What of a sweep is known beside its specs; the checks that need more than there is are silent."""

    count: Callable[[RunSpec], Count | None] = lambda spec: None
    rank_for: Callable[[RunSpec, RunSpec], int | None] = lambda spec, other: None  # of equal parameters
    default_lr: Mapping[str, float] = field(default_factory=dict)  # by variant, as its file says
    recipe: RunSpec | None = None  # for which the default rates were chosen


def compares(specs: Sequence[RunSpec]) -> bool:
    """Whether a sweep has anything to compare: cells that differ in more than the seed and the rate."""
    return len({(s.variant, s.r, s.targets, s.axes, s.options) for s in specs}) > 1


def grouped(pairs: Iterable[tuple[str, Any]]) -> dict[Any, list[str]]:
    """The names that share a value, by that value; all in the order in which they came."""
    names: dict[Any, list[str]] = {}
    for name, value in pairs:
        names.setdefault(value, []).append(name)
    return names


def several(texts: Sequence[str], between: str = ", ") -> str:
    """The first of many texts, and how many more there are."""
    return between.join(texts[:6]) + (f" and {len(texts) - 6} more" if len(texts) > 6 else "")


def listed(values: set[Any]) -> str:
    """Values in order, None as null and last."""
    return ", ".join(
        "null" if v is None else f"{v:g}" if isinstance(v, float) else f"{v}"
        for v in sorted(values, key=lambda v: (v is None, v))
    )
