"""What fair tuning runs next: a function of the settings and of what has a result, and of nothing else.

    round 0            every point of every cell with every tuning seed
    round 1, 2, ...    the points by which the grids have grown (see `grids`)
    the last round     the chosen point of every cell with every confirmation seed

With `halving` = d, by successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943): the rounds above
train for 1 / d^k of the steps, k >= 1 being the largest for which d^k points are in every initial grid. After
them the best 1 / d of each cell's points (rounded down, one at least) train for d times as many steps, anew
and with a schedule of that length, and so on up to 1 / d of the steps; of the last ones the best is chosen.
Every cell keeps equally many points at every length. No tuning run has the full length.

The rounds are played again from the first one each time, so that the same command finds its place whatever
was interrupted. Cells on one model and one dataset are compared and keep equally many points. Where the
learning rate alone is tuned, points are chosen by the curve of the variant over its rates and ranks
(`smoothed`).
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import Any

import numpy as np

from experiments.config.groups import leaves
from experiments.protocol import point_noise, smoothed
from experiments.spec import RunSpec, Train
from experiments.sweep.tuning.grids import Grid, Point, Scores, best, edges, grown, points
from experiments.sweep.tuning.settings import Settings

FAILED = "failed"
LENGTHS = ("train.steps", "train.epochs")
Outcome = float | str | None  # the score on validation, -inf if it diverged, FAILED, or None: no result yet
Make = Callable[[Sequence[tuple[int, Point]]], Sequence[RunSpec]]


@dataclass
class Cell:
    """One cell: the number it has in the command, its grid, and its specs by point, of the seed 0."""

    number: int
    grid: Grid
    specs: dict[Point, RunSpec] = field(default_factory=dict)
    scores: Scores = field(default_factory=dict)
    halving: int | None = None
    divisor: int = 1  # tuning runs have this part of the steps
    dropped: frozenset[Point] = frozenset()  # after shorter runs

    @property
    def first(self) -> RunSpec:
        """The spec of its first point."""
        return next(iter(self.specs.values()))

    @property
    def name(self) -> str:
        """What people call it: dora-r8-qv-scipy_topics."""
        return self.first.cell()

    @property
    def tunable(self) -> bool:
        """Whether its points are different runs: a method without a learning rate has one for all."""
        return len(set(self.specs.values())) > 1

    @property
    def chosen(self) -> Point | None:
        """The point to confirm; None where every one was lost."""
        return best(self.grid, self.scores) if self.tunable else next(iter(self.specs))

    @property
    def edge(self) -> bool:
        """Whether the best point still lies on an edge."""
        return self.tunable and bool(edges(self.grid, self.scores))

    @property
    def tuned(self) -> tuple[str, ...]:
        """The keys of its record in which its points differ."""
        if not self.tunable:
            return ()
        flat = [dict(leaves(spec.as_record())) for spec in self.specs.values()]
        keys = {key for key in flat[0] if len({str(content[key]) for content in flat}) > 1}
        return tuple(sorted(keys | ({LENGTHS[self.first.train.steps is None]} if self.halving else set())))

    @property
    def left(self) -> list[Point]:
        """The points that have not been dropped."""
        return [point for point in self.specs if point not in self.dropped]

    def drop(self) -> None:
        """Keep the best of the points for longer runs."""
        assert self.halving is not None
        count, scores = max(1, len(self.left) // self.halving), dict(self.scores)
        kept: list[Point] = []
        while len(kept) < count and (at := best(self.grid, scores)) is not None:
            kept.append(at)
            del scores[at]
        self.dropped = frozenset(self.specs) - set(kept)
        self.divisor //= self.halving

    def rounds(self) -> list[tuple[int, int]]:
        """What is left of tuning: how many points with which part of the steps, (count, divisor)."""
        found = [(len(self.left), self.divisor)]
        while self.halving and found[-1][1] > self.halving:
            count, divisor = found[-1]
            found.append((max(1, count // self.halving), divisor // self.halving))
        return found

    def runs(self, phase: str, at: Sequence[Point], seeds: Sequence[int]) -> list[RunSpec]:
        """Runs at some points with some seeds."""
        divisor = self.divisor if phase == "tune" else 1
        halving, tuned = (self.halving if self.tunable else None), self.tuned
        specs = {p: replace(self.specs[p], phase=phase, tuned=tuned, halving=halving) for p in at}
        return [
            replace(specs[p], train=shortened(specs[p].train, divisor), seed=seed)
            for p in at
            for seed in seeds
        ]


@dataclass
class Round:
    """The runs of one round that have no result; none left to launch if `specs` is empty."""

    number: int
    phase: str
    specs: list[RunSpec]
    cells: list[Cell]
    done: bool = False


def next_round(
    grids: Mapping[int, Grid],
    make: Make,
    outcome: Callable[[RunSpec], Outcome],
    settings: Settings,
    seeds: Sequence[int],
) -> Round:
    """The first round after `settings.launched` in which something is missing, or the end.

    Args:
        grids: The initial grid of each cell.
        make: The specs of (cell, point) pairs, all at once.
        outcome: What a run gave.
        settings: How to tune.
        seeds: Those to confirm with.

    Returns:
        The round; with `done` if nothing is left to be launched: then its `specs` are the confirmations that
        have a result.
    """
    divisors = lengths(settings, [len(points(grid)) for grid in grids.values()])
    cells = [Cell(n, grid, halving=settings.halving, divisor=divisors[0]) for n, grid in grids.items()]
    for number in range(settings.extensions + 1):
        _add_specs(cells, make)
        if found := _tuning(cells, number, outcome, settings):
            return found
        if number == settings.extensions or not _grow([cell for cell in cells if cell.tunable]):
            break
    last = settings.extensions + len(divisors)
    for number in range(settings.extensions + 1, last):  # longer runs of fewer points
        for cell in cells:
            cell.drop()
        if found := _tuning(cells, number, outcome, settings):
            return found
    confirmed = [cell for cell in cells if cell.chosen is not None]
    runs = [run for c in confirmed if c.chosen is not None for run in c.runs("confirm", [c.chosen], seeds)]
    missing = [run for run in runs if outcome(run) in (None, FAILED)]
    if missing and last > settings.launched:
        return Round(last, "confirm", runs, cells)
    return Round(last, "confirm", [run for run in runs if run not in set(missing)], cells, done=True)


def _tuning(
    cells: Sequence[Cell], number: int, outcome: Callable[[RunSpec], Outcome], settings: Settings
) -> Round | None:
    """The round, if runs of it are missing; else None, and the cells have their scores."""
    tuning = [cell for cell in cells if cell.tunable]
    runs = [run for cell in tuning for run in cell.runs("tune", cell.left, settings.tune_seeds)]
    missing = [run for run in runs if outcome(run) in (None, FAILED)]
    if missing and number > settings.launched:
        return Round(number, "tune", missing, list(cells))
    for cell in tuning:
        cell.scores = _scores(cell, outcome, settings.tune_seeds)
    for members in compared(tuning):
        _smooth(members, outcome, settings)
    return None


def lengths(settings: Settings, sizes: Sequence[int]) -> tuple[int, ...]:
    """By what the steps of tuning runs are divided, in the order of the rounds; (1,) without halving.

    Args:
        settings: How to tune.
        sizes: The number of points in each initial grid; a grid of one has nothing to tune.
    """
    if settings.halving is None:
        return (1,)
    count, power = min((size for size in sizes if size > 1), default=1), 1
    while settings.halving ** (power + 1) <= count:
        power += 1
    return tuple(settings.halving**k for k in range(power, 0, -1))


def shortened(train: Train, divisor: int) -> Train:
    """Training for a part of the length, rounded to a step, with a schedule of that length."""
    if divisor == 1:
        return train
    if train.steps is not None:
        return replace(train, steps=max(1, round(train.steps / divisor)))
    return replace(train, epochs=(train.epochs or 1.0) / divisor)


def lost(found: Round, outcome: Callable[[RunSpec], Outcome], seeds: Sequence[int]) -> int:
    """How many cells have no result to show, or not all of them, once the rounds are over."""
    return sum(
        cell.chosen is None
        or any(outcome(run) in (None, FAILED) for run in cell.runs("confirm", [cell.chosen], seeds))
        for cell in found.cells
    )


def _add_specs(cells: Sequence[Cell], make: Make) -> None:
    """The specs of the points that are new."""
    new = [(cell, point) for cell in cells for point in points(cell.grid) if point not in cell.specs]
    specs = make([(cell.number, point) for cell, point in new])
    for (cell, point), spec in zip(new, specs, strict=True):
        cell.specs[point] = spec


def _scores(cell: Cell, outcome: Callable[[RunSpec], Outcome], seeds: Sequence[int]) -> Scores:
    """Mean score by point; -inf where a run diverged, no entry where one failed."""
    scores = {}
    for point in cell.left:
        got = [outcome(run) for run in cell.runs("tune", [point], seeds)]
        values = [value for value in got if isinstance(value, float)]
        if -math.inf in values:
            scores[point] = -math.inf
        elif len(values) == len(got):
            scores[point] = mean(values)
    return scores


def _smooth(cells: Sequence[Cell], outcome: Callable[[RunSpec], Outcome], settings: Settings) -> None:
    """Give the points of compared cells the scores that the curves of their variants have there."""
    if settings.tune != ("lr",):
        return
    curves: dict[str, list[tuple[Cell, Point]]] = {}
    seeds: list[list[float]] = []
    for cell in cells:
        for point, score in cell.scores.items():
            if score > -math.inf:
                curves.setdefault(_curve(cell), []).append((cell, point))
                got = [outcome(run) for run in cell.runs("tune", [point], settings.tune_seeds)]
                seeds.append([value for value in got if isinstance(value, float)])
    noise = point_noise(seeds)
    new: dict[int, dict[Point, float]] = {cell.number: dict(cell.scores) for cell in cells}
    for members in curves.values():
        rows = [(cell.specs[p].lr, cell.specs[p].r or 0, cell.scores[p]) for cell, p in members]
        rate, rank, score = np.array(rows, float).T
        fit = smoothed(rate, rank, score, noise).score
        for (cell, point), value in zip(members, fit.tolist(), strict=True):
            new[cell.number][point] = value
    for cell in cells:
        cell.scores = new[cell.number]


def _curve(cell: Cell) -> str:
    """The same for cells that differ in the rank alone (and in what is tuned)."""
    flat = dict(leaves(cell.first.as_record()))
    apart = ("r", "seed", "matched", "tuned", "phase", "lr", "halving", *cell.tuned)
    return json.dumps({key: str(value) for key, value in sorted(flat.items()) if key not in apart})


def compared(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells whose grids grow together: those of each model and dataset."""
    places: dict[Any, list[Cell]] = {}
    for cell in cells:
        spec = cell.first
        places.setdefault((spec.model_key(), spec.data_key()), []).append(cell)
    return list(places.values())


def _grow(cells: Sequence[Cell]) -> bool:
    """Give cells larger grids, those of each comparison together; whether any grew."""
    grew = False
    for members in compared(cells):
        larger = grown({c.number: c.grid for c in members}, {c.number: c.scores for c in members})
        for cell in members if larger else ():
            grew = True
            cell.grid = larger[cell.number] if larger else cell.grid
    return grew
