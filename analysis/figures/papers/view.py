"""What a paper's figures are made from: the cells of one setting with their runs, curves and arrays."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.figures.figure import Figure, figure, slug
from analysis.figures.overview import metric_title, metric_words
from analysis.runs.load import Study
from analysis.runs.rows import Row, each

SEEDS = 5  # of a cell whose arrays are read
CELLS = 40  # whose arrays are read


@dataclass(frozen=True)
class View:
    """One setting: `cells` are the final ones, `every` those of all learning rates, tuning among them."""

    study: Study
    cells: pd.DataFrame
    every: pd.DataFrame
    domain: list[str]
    tag: str
    setting: str
    baseline: str  # a variant or a series

    @cached_property
    def rows(self) -> Sequence[Row]:
        """The final cells one by one."""
        return each(self.cells)

    @property
    def reference(self) -> str:
        """The series that others are compared with: the baseline's, or the first where it was not run."""
        own = self.cells.loc[self.cells["variant"] == self.baseline, "series"]
        return next(iter([self.baseline] * (self.baseline in self.domain) + list(own)), self.domain[0])

    @property
    def metric(self) -> str:
        """The primary metric in words: "Test accuracy"."""
        return metric_title(self.cells.iloc[0])

    @property
    def metric_words(self) -> str:
        """The same within a sentence: "test accuracy"."""
        return metric_words(self.cells.iloc[0])

    def records(self, cell: Row) -> list[Mapping[str, Any]]:
        """The records of a cell's completed runs, of the first few seeds."""
        return [self.study.records[run_id] for run_id in list(cell["by_seed"].values())[:SEEDS]]

    def with_arrays(self, name: str) -> Iterator[tuple[Row, int, Mapping[str, np.ndarray]]]:
        """(cell, seed, arrays) of the runs that left an array of this name."""
        for cell in self.rows[:CELLS]:
            for seed, run_id in list(cell["by_seed"].items())[:SEEDS]:
                found = self.study.arrays(run_id)
                if name in found:
                    yield cell, seed, found

    def spec(self, cell: Row) -> Mapping[str, Any]:
        """The resolved spec that a cell's runs share, but for the seed."""
        spec: Mapping[str, Any] = self.study.records[cell["run_ids"][0]]["spec"]
        return spec

    def figure(self, name: str, title: str, *, finding: str, caption: str, chart: Any) -> Figure:
        """A figure of a paper in this setting."""
        name = slug(name, self.tag)
        return figure(name, "paper", self.setting, title, caption, chart, finding=finding)

    def color(self, legend: Any = alt.Undefined) -> alt.Color:
        """The colour of a series, the same in every figure; `legend` None leaves its name out."""
        return alt.Color("series:N", scale=alt.Scale(domain=self.domain), sort=self.domain, legend=legend)

    def shape(self) -> alt.Shape:
        """The shape of a series, likewise."""
        return alt.Shape("series:N", scale=alt.Scale(domain=self.domain), sort=self.domain)


def short(matrix: str) -> str:
    """What kind of matrix a name is of, in a word or two: "query", "attention output"."""
    parts = [part for part in matrix.split(".") if not part.isdigit() and part not in ("self", "dense")]
    last = re.sub(r"\[(.*)\]", r" \1", parts[-1]) if parts else matrix
    return f"{parts[-2]} {last}" if last == "output" and len(parts) > 1 else last


def layer(matrix: str) -> int | None:
    """The number of the layer in a matrix's name."""
    return next((int(part) for part in matrix.split(".") if part.isdigit()), None)


def runs_text(n: int) -> str:
    """A number of runs in words: "5 runs"."""
    return f"{n} run{'s' if n != 1 else ''}"


def interval_text(values: tuple[float, float], digits: int = 2) -> str:
    """An interval in words: "95% 0.1 to 0.3"."""
    return f"95% {values[0]:.{digits}f} to {values[1]:.{digits}f}"


def panels(chart: Any, order: list[str], *, height: int = 220) -> Any:
    """A chart in a panel per value of the field `panel`, each with scales of its own."""
    facet = alt.Facet("panel:N", sort=order, title=None)
    return (
        chart.properties(width=230, height=height)
        .facet(facet=facet, columns=min(3, len(order)))
        .resolve_scale(x="independent", y="independent")
    )
