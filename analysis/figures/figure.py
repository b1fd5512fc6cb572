"""A figure: one Altair definition with its words, from which the page and the files are made."""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from analysis.runs.rows import each

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


def color(domain: Sequence[str], present: Collection[str], *, legend: bool = True) -> alt.Color:
    """The colour of a series, the same in every figure; the legend names those that have marks here."""
    values = [name for name in domain if name in set(present)]
    shown: Any = alt.Legend(values=values) if legend and len(values) > 1 else None
    return alt.Color("series:N", scale=alt.Scale(domain=domain), sort=domain, legend=shown)


def shape(domain: Sequence[str], present: Collection[str]) -> alt.Shape:
    """The shape of a series, in the same legend as its colour."""
    values = [name for name in domain if name in set(present)]
    shown: Any = alt.Legend(values=values) if len(values) > 1 else None
    return alt.Shape("series:N", scale=alt.Scale(domain=domain), sort=domain, legend=shown)


def tooltips(*fields: str | tuple[str, ...]) -> list[alt.Tooltip]:
    """Tooltips: each a field, (field, title) or (field, title, format), an empty title being the field."""
    return [_tip(*([field] if isinstance(field, str) else field)) for field in fields]


def _tip(field: str, title: str = "", form: str = "") -> alt.Tooltip:
    given: dict[str, Any] = {name: value for name, value in (("title", title), ("format", form)) if value}
    return alt.Tooltip(field, **given)


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
