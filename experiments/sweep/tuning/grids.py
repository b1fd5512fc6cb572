"""Which values a cell has tried, which of them is best, and how the grids of all cells grow together.

Rules, on scores that are means over the tuning seeds (higher is better):

    best      the highest score; among equal ones a point off the edges first, then the smaller values
    lost      a point with a run that failed has no score; one with a run that diverged scores minus infinity.
              Neither is ever chosen
    edge      the best point is at an end of an axis and values beyond that end are allowed. Where every point
              diverged, the lower end of the first axis counts as one
    growth    while a cell's best is on an edge of an axis, every cell gets one more value on that axis: that
              cell the next one beyond its edge, at the spacing that its last two have; a cell whose best is
              inside the value halfway (geometrically) between its best and the better of the two neighbours

So all cells keep the same number of points, and a cell that needed no extension spends them near its best.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, TypeVar

Point = tuple[Any, ...]  # a value for each axis
Scores = Mapping[Point, float]  # -inf: diverged; a point that failed is not there
Key = TypeVar("Key", bound=Hashable)
TIE = 1e-12


@dataclass(frozen=True)
class Axis:
    """The values that were tried of one key: numbers in rising order, anything else as given."""

    key: str
    values: tuple[Any, ...]
    allows: Callable[[Any], bool] = field(default=lambda value: True, compare=False)

    def __post_init__(self) -> None:
        if self.numeric:
            object.__setattr__(self, "values", tuple(sorted(self.values)))

    @property
    def numeric(self) -> bool:
        """Whether there is a next value beyond an end."""
        return all(type(value) in (int, float) for value in self.values)

    def beyond(self, side: int) -> Any | None:
        """The next value below (-1) or above (1) the ends; None if there is none or it is not allowed."""
        if not self.numeric or len(self.values) < 2:
            return None
        end, inner = (self.values[0], self.values[1]) if side < 0 else (self.values[-1], self.values[-2])
        if inner > 0 and end > 0:
            return self._new(end * (end / inner))
        return self._new(end + (end - inner)) if end > 0 else None

    def between(self, value: Any, other: Any) -> Any | None:
        """The value halfway between two; None if it is none that can be tried."""
        low, high = sorted((value, other))
        return self._new(math.sqrt(low * high) if low > 0 else (low + high) / 2)

    def _new(self, value: float) -> Any | None:
        whole = all(type(v) is int for v in self.values)
        made = round(value) if whole else float(f"{value:.6g}")
        return made if made not in self.values and self.allows(made) else None

    def with_value(self, value: Any) -> "Axis":
        """This axis with one more value."""
        return replace(self, values=(*self.values, value))


Grid = tuple[Axis, ...]


def points(grid: Grid) -> list[Point]:
    """The product of the axes."""
    return list(product(*(axis.values for axis in grid)))


def best(grid: Grid, scores: Scores) -> Point | None:
    """The point that the scores recommend; None where no point has one."""
    usable = {point: score for point, score in scores.items() if score > -math.inf}
    if not usable:
        return None
    top = max(usable.values())
    tied = [point for point, score in usable.items() if score >= top - TIE]
    places = [axis.values.index for axis in grid]
    return min(
        tied,
        key=lambda point: (
            len(_ends(grid, point)),
            tuple(at(v) for at, v in zip(places, point, strict=True)),
        ),
    )


def edges(grid: Grid, scores: Scores) -> dict[int, int]:
    """On which axes (by number) the best point is on an edge, and at which end: -1 or 1."""
    at = best(grid, scores)
    if at is not None:
        return _ends(grid, at)
    diverged = any(score == -math.inf for score in scores.values())
    first = next((i for i, axis in enumerate(grid) if axis.beyond(-1) is not None), None)
    return {first: -1} if diverged and first is not None else {}


def grown(grids: Mapping[Key, Grid], scores: Mapping[Key, Scores]) -> dict[Key, Grid] | None:
    """All grids with as many more points as their edges ask for; None where no best is on an edge.

    Args:
        grids: The grid of each cell, all on the same keys with equally many values.
        scores: What each cell's points gave.
    """
    outward = {cell: edges(grid, scores[cell]) for cell, grid in grids.items()}
    axes = sorted({i for found in outward.values() for i in found})
    if not axes:
        return None
    result = {}
    for cell, grid in grids.items():
        larger = list(grid)
        for i in axes:
            value = _next_value(grid, scores[cell], i, outward[cell].get(i))
            larger[i] = grid[i] if value is None else grid[i].with_value(value)
        result[cell] = tuple(larger)
    return result


def _ends(grid: Grid, point: Point) -> dict[int, int]:
    """The axes at whose end a point is, where there are values beyond that end."""
    found = {}
    for i, (axis, value) in enumerate(zip(grid, point, strict=True)):
        for side, end in ((-1, axis.values[0]), (1, axis.values[-1])):
            if value == end and axis.beyond(side) is not None:
                found[i] = side
    return found


def _next_value(grid: Grid, scores: Scores, i: int, side: int | None) -> Any | None:
    """The value that axis i of one cell gets: beyond its edge, or the most telling one inside."""
    axis, at = grid[i], best(grid, scores)
    if side is not None:
        return axis.beyond(side)
    if at is None:
        return _first(axis.beyond(-1), axis.beyond(1))
    place = axis.values.index(at[i])
    beside = [axis.values[j] for j in (place - 1, place + 1) if 0 <= j < len(axis.values)]
    beside.sort(key=lambda value: -scores.get((*at[:i], value, *at[i + 1 :]), -math.inf))
    inside = [axis.between(at[i], value) for value in beside] if axis.numeric else []
    return _first(*inside, axis.beyond(-1), axis.beyond(1))


def _first(*values: Any | None) -> Any | None:
    return next((value for value in values if value is not None), None)


def equal(grids: Sequence[Grid]) -> bool:
    """Whether all grids have the same number of points."""
    return len({len(points(grid)) for grid in grids}) <= 1
