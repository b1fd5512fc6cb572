"""What each paper showed, drawn from this study's records: a module per paper.

Each figure is shown only when the runs of a setting hold what it needs, with one sentence on what it shows
here. The analyses are pure functions on arrays, at the end of each module.
"""

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from analysis.figures.figure import Figure, slug
from analysis.figures.overview import series_in_order, setting_name, with_bars
from analysis.figures.papers import across, adalora, dora, lora, loraplus, qlora, rslora
from analysis.figures.papers.view import View
from analysis.runs.load import Study

PAPERS = (lora, rslora, loraplus, dora, adalora, qlora, across)


def paper_figures(
    study: Study,
    cells: pd.DataFrame,
    *,
    baseline: str = "lora",
) -> Iterator[Figure]:
    """The figures of all papers, setting by setting."""
    if cells.empty:
        return
    results = cells[(cells["n"] > 0) & ~cells["tuning"]]
    domain = [name for name in series_in_order(cells) if name in set(results["series"])]
    keys = ["dataset", "model", "metric", "stack", "split"]
    settings = list(results[results["final"]].groupby(keys, sort=True))
    for (dataset, model, metric, stack, split), group in settings:
        here = (cells["dataset"] == dataset) & (cells["model"] == model) & (cells["stack"] == stack)
        every = cells[here & (cells["metric"] == metric)]
        tag = slug(dataset, model) if len(settings) > 1 else ""
        tag += f"-{stack}" if _several_stacks(results, dataset, model) else ""
        tag += f"-{split}" if results["split"].nunique() > 1 else ""
        name = setting_name(group.iloc[0])
        view = View(study, with_bars(group), every, domain, tag, name, baseline)
        for paper in PAPERS:
            yield from (replace(figure, label=paper.PAPER) for figure in paper.figures(view))


def _several_stacks(results: pd.DataFrame, dataset: str, model: str) -> bool:
    here = results[(results["dataset"] == dataset) & (results["model"] == model)]
    return bool(here["stack"].nunique() > 1)
