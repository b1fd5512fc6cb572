"""How each cell came by its values: how many were tried, on which seeds, and whether the best was inside.

A comparison is of equals when both sides chose from equally many points, on validation, with seeds that the
comparison does not use.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.compare import luck
from analysis.runs import identity
from analysis.runs.cells import Key, key_of
from analysis.runs.load import Study
from analysis.runs.rows import Row, each


@dataclass(frozen=True)
class Budget:
    """The tuning behind one cell; `points` is 0 where there is nothing to tune."""

    points: int
    seeds: tuple[int, ...]  # of the tuning runs; empty where the compared runs chose for themselves
    shared: tuple[int, ...]  # tuning seeds that are compared as well
    edges: tuple[str, ...]  # tuned keys whose chosen value is at an end of those tried
    runs: int = 0  # that were tried, over points and seeds
    unknown: bool = False  # the value was confirmed, and its tuning runs are not in the study
    regret: np.ndarray | None = field(default=None, compare=False)  # of the choice, drawn anew; see `luck`

    @property
    def tuned(self) -> bool:
        """Whether there was a choice."""
        return self.points > 1

    @property
    def effort(self) -> tuple[int, int]:
        """How much was tried: points, and runs where there was a choice between points."""
        return self.points, self.runs if self.tuned else 0

    @property
    def apart(self) -> bool:
        """Whether the choice was made with other seeds than the comparison."""
        return bool(self.seeds) and not self.shared


Budgets = Mapping[Key, Budget]


def budgets(study: Study, cells: pd.DataFrame) -> Budgets:
    """The tuning behind every cell that stands for its group."""
    out = {}
    regrets = luck.regrets(study, cells)
    tuning = dict(tuple(cells[cells["tuning"]].groupby("group_key")))
    results = dict(tuple(cells[~cells["tuning"]].groupby(["group_key", "stack"])))
    for row in each(cells[cells["final"]]):
        tuned = tuning.get(row["group_key"])
        tried = results[row["group_key"], row["stack"]] if tuned is None else tuned
        seeds = sorted(
            {seed for seeds in tried["seeds_tried"] for seed in seeds} if tuned is not None else ()
        )
        out[key_of(row)] = Budget(
            points=0 if row["lr"] == 0 else int(row["rates"]),
            seeds=tuple(seeds),
            shared=tuple(sorted(set(seeds) & set(row["seeds_tried"]))),
            edges=_edges(study, tried, row) if row["rates"] > 1 else (),
            runs=0 if row["lr"] == 0 else sum(len(set(seeds)) for seeds in tried["seeds_tried"]),
            unknown=tuned is None and row["phase"] == "confirm" and row["lr"] != 0,
            regret=regrets.get(key_of(row)),
        )
    return out


def _edges(study: Study, tried: pd.DataFrame, row: Row) -> tuple[str, ...]:
    """The tuned keys whose chosen value is the smallest or largest of those tried, zero left out."""
    specs = [identity.flat(study.records[ids[0]]["spec"]) for ids in tried["run_ids"]]
    own = identity.flat(study.records[row["run_ids"][0]]["spec"])
    found = []
    for key in str(row["tuned"]).split(","):
        values = [spec.get(key) for spec in specs]
        numbers = sorted({v for v in values if isinstance(v, int | float) and not isinstance(v, bool)})
        ends = (numbers[0] or None, numbers[-1]) if len(numbers) > 1 else ()
        if own.get(key) in ends and not identity.follows_rate(specs, key):
            found.append(key)
    return tuple(found)


def halving(study: Study, final: pd.DataFrame) -> list[str]:
    """The rules by which tuning dropped points after short runs, in words; empty where none was."""
    out: dict[str, None] = {}
    runs = study.runs[study.runs["phase"] == "tune"]
    for row in each(final[final["rates"] > 1]):
        spec = study.records[row["run_ids"][0]]["spec"]
        tried = runs[runs["group_key"] == row["group_key"]]
        if spec.get("halving") and len(tried):
            counts = tried.groupby("rung")["cell_key"].nunique()
            each_length = ", ".join(f"{n} with {length:g}" for length, n in counts.items())
            unit = "steps" if spec["train"].get("steps") else "epochs"
            out[f"halving={spec['halving']}: {each_length} of {identity.length(spec):g} {unit}"] = None
        elif len(tried):
            out["none dropped"] = None
    return list(out) if any(text != "none dropped" for text in out) else []


@dataclass(frozen=True)
class Sides:
    """The tuning behind the two sides of a comparison, over its ranks and datasets."""

    variant: tuple[Budget, ...]
    baseline: tuple[Budget, ...]

    @property
    def both(self) -> tuple[Budget, ...]:
        """All budgets."""
        return (*self.variant, *self.baseline)

    @property
    def points(self) -> tuple[int, int]:
        """Between how many points each side chose at each rank, at most; 0 where nothing was to be tuned."""
        return max(b.points for b in self.variant), max(b.points for b in self.baseline)

    @property
    def equal(self) -> bool:
        """Whether both tried equally much at every rank, or one has nothing to tune."""
        return all(
            v.effort == b.effort or 0 in (v.points, b.points)
            for v, b in zip(self.variant, self.baseline, strict=True)
        )

    @property
    def unknown(self) -> bool:
        """Whether a value was confirmed whose tuning is not in the study."""
        return any(budget.unknown for budget in self.both)

    @property
    def luck(self) -> float:
        """What the choice of the rates adds to the squared standard error of a mean over the ranks."""
        known = [[b.regret for b in side if b.regret is not None] for side in (self.variant, self.baseline)]
        means = [np.sum(side, axis=0) / len(self.variant) for side in known if side]
        return luck.MISFIT * float(sum(np.square(mean).mean() for mean in means))
