"""A figure: one Altair definition with its words, from which the page and the files are made."""

import re
from dataclasses import dataclass
from typing import Any

import altair as alt

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

    Altair's two slow habits are kept out of large reports: the schema is checked by the tests and not here
    (0.1 s a figure), and encodings are given as alt.X("r:Q"), never as "r:Q" (0.01 s for each to be guessed).
    """
    spec = chart.to_dict(validate=False)
    spec.pop("config", None)
    if "facet" not in spec:
        spec = {"height": HEIGHT} | spec | {"width": "container"}
    return Figure(name, kind, setting, title, caption, spec, label, finding)
