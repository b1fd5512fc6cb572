"""A figure: one Altair definition with its words, from which the page and the files are made."""

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from analysis.runs.rows import Row, each

WIDTH, HEIGHT = 560, 340  # of an exported single panel


@dataclass(frozen=True)
class Figure:
    """One figure: `name` is its file name, `spec` its Vega-Lite definition without any theme."""

    name: str
    kind: str
    setting: str
    title: str
    caption: str
    spec: dict[str, Any]
    label: str = ""  # in a choice between figures of one kind; of a paper's figure, the paper
    finding: str = ""  # one sentence: what it shows here, with the number and its evidence

    @property
    def stem(self) -> str:
        """The title up to what the figures of a choice differ in."""
        return self.title[: self.title.lower().rfind(self.label.lower())].rstrip()


def _inline(table: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """The rows of a table of numbers, flags and text; what is not finite is missing."""
    return {"values": [{name: _plain(value) for name, value in row.items()} for row in each(table)]}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


alt.data_transformers.register("inline", _inline)


def color(domain: Sequence[str], present: Collection[str]) -> alt.Color:
    """The colour of a series, the same in every figure; the legend names those that have marks here."""
    return alt.Color("series:N", scale=alt.Scale(domain=domain), sort=domain, legend=_legend(domain, present))


def shape(domain: Sequence[str], present: Collection[str]) -> alt.Shape:
    """The shape of a series, in the same legend as its colour."""
    return alt.Shape("series:N", scale=alt.Scale(domain=domain), sort=domain, legend=_legend(domain, present))


def _legend(domain: Sequence[str], present: Collection[str]) -> Any:
    values = [name for name in domain if name in set(present)]
    return alt.Legend(values=values) if len(values) > 1 else None


def tooltips(*fields: str | tuple[str, ...]) -> list[alt.Tooltip]:
    """Tooltips: each a field, (field, title) or (field, title, format), an empty title being the field."""
    tips = []
    for field in fields:
        name, *more = [field] if isinstance(field, str) else field
        given: dict[str, Any] = dict(zip(("title", "format"), more, strict=False))
        tips.append(alt.Tooltip(name, **{key: value for key, value in given.items() if value}))
    return tips


def rank_text(r: float) -> str:
    """A rank as a value on an axis."""
    return "no rank" if pd.isna(r) else f"{r:g}"


def row_name(cell: Row) -> str:
    """A cell as a row of a figure: "dora · r 8"."""
    return str(cell["series"]) + ("" if pd.isna(cell["r"]) else f" · r {cell['r']:g}")


def rows_axis(order: Iterable[str], *, limit: int = 260) -> alt.Y:
    """The axis of a figure that has a named `row` for each of `order`."""
    axis = alt.Axis(grid=False, labelLimit=limit, domain=False)
    return alt.Y("row:N", sort=list(order), title=None, axis=axis)


def interval(base: alt.Chart, low: str, high: str, title: str | None, **mark: Any) -> Any:
    """An upright bar from one field to another, on an axis with this title."""
    rule = base.mark_rule(**{"strokeWidth": 1.6, "strokeOpacity": 0.6, **mark})
    return rule.encode(y=alt.Y(f"{low}:Q", title=title), y2=alt.Y2(f"{high}:Q"))


def on_viridis(field: str, values: pd.Series) -> Any:
    """The colour of a text on a mark that viridis colours by a field."""
    middle = float((values.min() + values.max()) / 2)
    return alt.condition(f"datum.{field} < {middle}", alt.value("white"), alt.value("#12202e"))


def slug(*parts: str) -> str:
    """A file name from free text."""
    return "-".join(re.sub(r"[^a-z0-9]+", "_", part.lower()).strip("_") for part in parts if part)


def figure(
    name: str,
    kind: str,
    setting: str,
    title: str,
    caption: str,
    chart: alt.TopLevelMixin,
    label: str = "",
    finding: str = "",
) -> Figure:
    """The figure of a chart; see `Figure`.

    Altair's slow habits are kept out of large reports: the schema is checked by the tests and not here (0.1 s
    a figure), encodings are given as alt.X("r:Q"), never as "r:Q" (0.01 s for each to be guessed), and tables
    are written by `_inline`.
    """
    with alt.data_transformers.enable("inline"):
        spec = chart.to_dict(validate=False)
    spec.pop("config", None)
    if "facet" not in spec:
        spec = {"height": HEIGHT} | spec | {"width": "container"}
    return Figure(name, kind, setting, title, caption, spec, label, finding)
