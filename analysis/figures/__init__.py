"""Figures: one Altair definition each, which the page shows and from which SVG, PDF and PNG are made."""

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from analysis import stats
from analysis.figures import curves, evidence, overview
from analysis.figures.figure import HEIGHT, WIDTH, Figure, figure, slug
from analysis.figures.overview import Chart, series_in_order, setting_name
from analysis.figures.papers import paper_figures as paper_figures
from analysis.runs.cells import SETTING, finals
from analysis.runs.load import Study
from analysis.runs.predictions import Blind
from analysis.runs.rows import each
from analysis.text.format import metric_name, proper


class _Setting(NamedTuple):
    """What the figures of one setting share: its name, and what tells their files from those of others."""

    name: str
    tag: str

    def figure(
        self, kind: str, file: str, title: str, text: str, chart: Chart, *apart: str, label: str = ""
    ) -> Figure:
        """A figure of this setting; `apart` are the targets, say, that it does not share with others."""
        title = ", ".join([title, *filter(None, apart)])
        return figure(slug(file, self.tag, *apart), kind, self.name, title, text, chart, label)


def overview_figures(
    study: Study, cells: pd.DataFrame, size: tuple[float, float] = (WIDTH - 110, HEIGHT - 90)
) -> Iterator[Figure]:
    """All figures of the first part of the report, setting by setting; `size` is that of `by_cost`."""
    final = finals(cells)
    domain = [name for name in series_in_order(cells) if name in set(final["series"])]
    settings = list(final.groupby(list(SETTING), sort=True, dropna=False))
    for _, group in settings:
        row = group.iloc[0]
        setting = _Setting(setting_name(row), slug(row["dataset"], row["model"]) if len(settings) > 1 else "")
        barred = overview.with_bars(group)
        far = overview.far_off(barred)
        names = ", ".join(f"{cell['series']} ({cell['mean']:.3f})" for cell in each(barred[far]))
        aside = f" Too far off to be drawn here: {names}." if names else ""
        yield from _by_rank(study, barred[~far], domain, setting, aside)
        yield from _by_cost(barred[~far], domain, setting, aside, size)
        yield from _curves(study, barred, domain, setting)
        if group["n"].max() >= stats.FEWEST_SEEDS or (group["diverged"] + group["failed"]).any():
            yield from _reliability(study, barred[~far], domain, setting)


def _reliability(study: Study, cells: pd.DataFrame, domain: list[str], setting: _Setting) -> Iterator[Figure]:
    """The seeds of each cell, from three seeds on or where runs were lost."""
    for targets, group in by_targets(cells):
        chart = evidence.reliability(group, _runs(study, group), domain)
        text = "A dot is a seed, the bar their mean; at the right, how many runs ended with a result."
        rest = len(group) - evidence.RELIABILITY_ROWS
        text += f" {rest} more cells are in the table." if rest > 0 else ""
        yield setting.figure("reliability", "reliability", "Reliability over seeds", text, chart, targets)


def _by_rank(
    study: Study, cells: pd.DataFrame, domain: list[str], setting: _Setting, aside: str
) -> Iterator[Figure]:
    title = f"{overview.metric_title(cells.iloc[0])} against rank"
    for targets, group in by_targets(cells) if cells["r"].notna().any() else ():
        blind = _blind(study, group)
        drawn = blind if blind is not None and _near(group, blind.score) else None
        chart = overview.by_rank(group, _runs(study, group[group["r"].notna()]), domain, drawn)
        text = _bars(group) + aside + _grey(group, domain)
        text += f" {blind.text[0].upper()}{blind.text[1:]} scores {blind.score:.3f}." if blind else ""
        yield setting.figure("rank", "metric_by_rank", title, text, chart, targets)


def _by_cost(
    cells: pd.DataFrame, domain: list[str], setting: _Setting, aside: str, size: tuple[float, float]
) -> Iterator[Figure]:
    for axis, (name, _) in overview.COSTS.items():
        if (cells[axis] > 0).any():
            why = overview.no_line(cells[cells[axis] > 0], axis)
            text = "Labels are ranks, where there is room. "
            text += f"No line joins the best by time: {why}. " if why else _LINE
            text += "Cells of equal cost are drawn side by side. "
            text += "Level bars: quartiles of the step times. " if axis == "step_ms" else ""
            text += _bars(cells) + aside + _grey(cells, domain)
            chart = overview.by_cost(cells, domain, axis, size)
            title = f"{overview.metric_title(cells.iloc[0])} against {name[0].lower()}{name[1:]}"
            yield setting.figure("cost", f"metric_by_{axis}", title, text, chart, label=name)


_LINE = "The dashed line joins the cells that no other cell beats in both respects. "


def _runs(study: Study, cells: pd.DataFrame) -> pd.DataFrame:
    """The completed runs of these cells, with their `series`."""
    series = {run: cell["series"] for cell in each(cells) for run in cell["by_seed"].values()}
    return study.completed.loc[list(series)].assign(series=list(series.values()))


def _blind(study: Study, cells: pd.DataFrame) -> Blind | None:
    """What answers that look at no test example score; None if unknown."""
    first = cells.iloc[0]
    found = next((blind for ids in cells["run_ids"] if (blind := study.predictions.blind(ids[0]))), None)
    fits = found and first["split"] == "test" and str(first["metric"]).startswith(found.metric)
    return found if fits else None


def _near(cells: pd.DataFrame, value: float) -> bool:
    """Whether a reference lies near enough to be drawn without flattening the differences."""
    low, high = cells["mean"].min(), cells["mean"].max()
    return bool(low - 2 * (high - low) <= value <= high + 2 * (high - low))


def _grey(cells: pd.DataFrame, domain: list[str]) -> str:
    """How many series are drawn in grey, in words."""
    many = len(domain) - len(overview.emphasised(cells, domain))
    return f" In grey: {many} more series." if many else ""


def _curves(study: Study, cells: pd.DataFrame, domain: list[str], setting: _Setting) -> Iterator[Figure]:
    for targets, group in by_targets(cells):
        front = overview.emphasised(group, domain)
        table = curves.frame(group[group["series"].isin(front)], study)
        if len(table):
            text = "Lines: training loss, on batches, before each step, smoothed over a tenth of the steps; "
            text += "marks: validation loss."
            if (table["size"] > 1).any() and table["series"].nunique() <= curves.BANDS:
                text += " Bands run from the lowest to the highest seed."
            if len(front) < len(domain):
                text += f" {len(front)} of {len(domain)} series, the best of them and the first."
            chart = curves.loss_curves(table, domain)
            yield setting.figure("curves", "loss_curves", "Loss during training", text, chart, targets)


def evidence_figures(cells: pd.DataFrame, verdicts: pd.DataFrame) -> Iterator[Figure]:
    """The figures behind the verdicts, setting by setting.

    Args:
        cells: all cells of the study.
        verdicts: the table of its comparisons.
    """
    if cells.empty:
        return
    domain = series_in_order(cells)
    results = cells[~cells["tuning"] & cells["metric"].notna()]
    settings = list(results.groupby(["dataset", "model", "metric"], sort=True))
    for (dataset, model, _), group in settings:
        name = setting_name(group.sort_values("n", ascending=False).iloc[0])
        setting = _Setting(name, slug(dataset, model) if len(settings) > 1 else "")
        here, rows = (t[(t["dataset"] == dataset) & (t["model"] == model)] for t in (cells, verdicts))
        yield from _forests(rows[rows["p_adjusted"].notna()], domain, setting)
        points = evidence.rate_points(here)
        for targets, part in by_targets(points) if len(points) else []:
            text = "Rings mark the chosen rates; that of the largest rank is labelled. A peak on the edge of "
            text += "the grid may lie beyond it."
            chart: Chart = evidence.rate_curves(part, domain)
            title = "Validation against learning rate"
            yield setting.figure("rates", "learning_rates", title, text, chart, targets)
        for targets, part in by_targets(group[group["final"]]):
            if evidence.lacking(part):
                text, chart = "Completed seeds of those that any cell here has.", evidence.coverage(part)
                yield setting.figure("coverage", "coverage", "What was run", text, chart, targets)


def _forests(rows: pd.DataFrame, domain: list[str], setting: _Setting) -> Iterator[Figure]:
    for (targets, stack), part in rows.groupby(["targets", "stack"], sort=True, dropna=False):
        part = part if len(part) <= evidence.FOREST_ROWS else part[part["overall"]]
        far = evidence.far_off(part)
        names = ", ".join(
            f"{evidence.comparison_name(row)} ({row['difference']:+.3f})" for row in each(part[far])
        )
        row = part.iloc[0]
        how = "runs, as independent samples," if "independent" in rows else "paired seeds"
        text = (
            f"Means over {how} with 95% intervals; filled marks are decided. "
            f"Shaded: differences of less than {row['margin']:g}, the margin."
        )
        text += f" Too far off to be drawn here: {names}." if names else ""
        places = {"targets": targets, "stack": stack}
        apart = [str(name) for key, name in places.items() if rows[key].nunique() > 1]
        judged = metric_name(str(row["metric"]).rsplit("/", 1)[-1])
        model = f" with {row['model']}" if row["model"] != "unknown" else ""
        here = f" on {row['dataset']}{model}" if setting.tag else ""
        title = f"Differences from {proper(row['baseline'])}{here}"
        chart = evidence.forest(part[~far], domain, judged)
        yield setting.figure("forest", "differences", title, text, chart, *apart)


def by_targets(cells: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The cells per choice of targets; methods without targets are shown beside each."""
    free = cells[cells["targets"].isna()]
    groups = [(str(name), group) for name, group in cells.groupby("targets", sort=True)]
    if not groups:
        return [("", free)]
    many = len(groups) > 1
    return [(name if many else "", pd.concat([group, free])) for name, group in groups]


def _bars(cells: pd.DataFrame) -> str:
    """What the error bars of these cells mean, in words."""
    seeds = "95% t intervals over seeds" if cells["low"].notna().any() else ""
    few = cells["low"].isna() & cells["bar_low"].notna()
    rows = cells.loc[few, "test_rows"].max()
    sampling = f"the noise of {rows:,.0f} test examples alone (95%), without that between seeds"
    sampling = sampling if few.any() else ""
    if seeds and sampling:
        return f"Bars: {seeds}; for cells with fewer than three seeds {sampling}."
    none = "No error bars: too few seeds to estimate any."
    return f"Bars: {seeds or sampling}." if seeds or sampling else none
