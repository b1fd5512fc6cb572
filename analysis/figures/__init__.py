"""Figures: one Altair definition each, which the page shows and from which SVG, PDF and PNG are made."""

from collections.abc import Iterator

import pandas as pd

from analysis import stats
from analysis.figures import curves, evidence, overview
from analysis.figures.figure import HEIGHT, WIDTH, Figure, figure, slug
from analysis.figures.overview import setting_name
from analysis.figures.papers import paper_figures as paper_figures
from analysis.runs.cells import SETTING, order_of
from analysis.runs.load import Study
from analysis.runs.predictions import Blind
from analysis.runs.rows import each
from analysis.text.format import metric_name, proper


def overview_figures(
    study: Study, cells: pd.DataFrame, size: tuple[float, float] = (WIDTH - 110, HEIGHT - 90)
) -> Iterator[Figure]:
    """All figures of the first part of the report, setting by setting; `size` is that of `by_cost`."""
    final = cells[cells["final"] & (cells["n"] > 0)]
    domain = sorted(final["series"].unique(), key=order_of)
    settings = list(final.groupby(list(SETTING), sort=True, dropna=False))
    for _, group in settings:
        row = group.iloc[0]
        tag = slug(row["dataset"], row["model"]) if len(settings) > 1 else ""
        barred = overview.with_bars(group)
        far = overview.far_off(barred)
        names = ", ".join(f"{cell['series']} ({cell['mean']:.3f})" for cell in each(barred[far]))
        aside = f" Too far off to be drawn here: {names}." if names else ""
        yield from _setting_figures(study, barred[~far], domain, tag, setting_name(row), aside, size)
        yield from _curve_figures(study, barred, domain, tag, setting_name(row))
        if group["n"].max() >= stats.FEWEST_SEEDS or (group["diverged"] + group["failed"]).any():
            yield from _reliability(study, barred[~far], domain, tag, setting_name(row))


def _reliability(
    study: Study, cells: pd.DataFrame, domain: list[str], tag: str, setting: str
) -> Iterator[Figure]:
    """The seeds of each cell, from three seeds on or where runs were lost."""
    for targets, group in by_targets(cells):
        runs = study.completed.reindex([i for ids in group["by_seed"] for i in ids.values()])
        runs = runs.dropna(subset=["run_id"])
        names = group.drop_duplicates("cell_key").set_index("cell_key")["series"]
        chart = evidence.reliability(group, runs.assign(series=runs["cell_key"].map(names)), domain)
        text = "A dot is a seed, the bar their mean; at the right, how many runs ended with a result."
        rest = len(group) - evidence.RELIABILITY_ROWS
        text += f" {rest} more cells are in the table." if rest > 0 else ""
        name = slug("reliability", tag, targets)
        yield figure(name, "reliability", setting, f"Reliability over seeds{_where(targets)}", text, chart)


def _setting_figures(
    study: Study,
    cells: pd.DataFrame,
    domain: list[str],
    tag: str,
    setting: str,
    aside: str,
    size: tuple[float, float],
) -> Iterator[Figure]:
    title = overview.metric_title(cells.iloc[0])
    for targets, group in by_targets(cells) if cells["r"].notna().any() else ():
        where = _where(targets)
        runs = study.completed.reindex([i for ids in group["by_seed"] for i in ids.values()]).dropna(
            subset=["run_id", "r"]
        )
        runs = runs.assign(
            series=runs["cell_key"].map(group.drop_duplicates("cell_key").set_index("cell_key")["series"])
        )
        blind = _blind(study, group)
        drawn = blind if blind is not None and _near(group, blind.score) else None
        chart = overview.by_rank(group, runs, domain, blind=drawn)
        name = slug("metric_by_rank", tag, targets)
        text = _bars(group) + aside + _grey(group, domain)
        text += f" {blind.text[0].upper()}{blind.text[1:]} scores {blind.score:.3f}." if blind else ""
        yield figure(name, "rank", setting, f"{title} against rank{where}", text, chart)
    for axis, (name, _) in overview.COSTS.items():
        if (cells[axis] > 0).any():
            why = overview.no_line(cells[cells[axis] > 0], axis)
            text = "Labels are ranks, where there is room. "
            text += f"No line joins the best by time: {why}. " if why else _LINE
            text += "Cells of equal cost are drawn side by side. "
            text += "Level bars: quartiles of the step times. " if axis == "step_ms" else ""
            text += _bars(cells) + aside + _grey(cells, domain)
            chart = overview.by_cost(cells, domain, axis, size)
            file = slug(f"metric_by_{axis}", tag)
            words = f"{title} against {name[0].lower()}{name[1:]}"
            yield figure(file, "cost", setting, words, text, chart, name)


_LINE = "The dashed line joins the cells that no other cell beats in both respects. "


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


def _curve_figures(
    study: Study, cells: pd.DataFrame, domain: list[str], tag: str, setting: str
) -> Iterator[Figure]:
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
            name = slug("loss_curves", tag, targets)
            yield figure(name, "curves", setting, f"Loss during training{_where(targets)}", text, chart)


def evidence_figures(cells: pd.DataFrame, verdicts: pd.DataFrame) -> Iterator[Figure]:
    """The figures behind the verdicts, setting by setting.

    Args:
        cells: all cells of the study.
        verdicts: the table of its comparisons.
    """
    if cells.empty:
        return
    domain = sorted(set(cells["series"]), key=order_of)
    results = cells[~cells["tuning"].astype(bool) & cells["metric"].notna()]
    settings = list(results.groupby(["dataset", "model", "metric"], sort=True))
    for (dataset, model, _), group in settings:
        tag = slug(dataset, model) if len(settings) > 1 else ""
        setting = setting_name(group.sort_values("n", ascending=False).iloc[0])
        here = cells[(cells["dataset"] == dataset) & (cells["model"] == model)]
        rows = verdicts[
            (verdicts["dataset"] == dataset) & (verdicts["model"] == model) & verdicts["p_adjusted"].notna()
        ]
        yield from _forests(rows, domain, tag, setting)
        points = evidence.rate_points(here)
        for targets, part in by_targets(points) if len(points) else []:
            text = "Rings mark the chosen rates; that of the largest rank is labelled. A peak on the edge of "
            text += "the grid may lie beyond it."
            title = f"Validation against learning rate{_where(targets)}"
            chart = evidence.rate_curves(part, domain)
            yield figure(slug("learning_rates", tag, targets), "rates", setting, title, text, chart)
        final = group[group["final"]]
        for targets, part in by_targets(final):
            if not evidence.lacking(part):
                continue
            text = "Completed seeds of those that any cell here has."
            title = f"What was run{_where(targets)}"
            yield figure(
                slug("coverage", tag, targets), "coverage", setting, title, text, evidence.coverage(part)
            )


def _forests(rows: pd.DataFrame, domain: list[str], tag: str, setting: str) -> Iterator[Figure]:
    for (targets, stack), part in rows.groupby(["targets", "stack"], sort=True, dropna=False):
        part = part if len(part) <= evidence.FOREST_ROWS else part[part["overall"]]
        far = evidence.far_off(part)
        names = ", ".join(f"{evidence.row_name(row)} ({row['difference']:+.3f})" for row in each(part[far]))
        row = part.iloc[0]
        how = "runs, as independent samples," if "independent" in rows else "paired seeds"
        text = (
            f"Means over {how} with 95% intervals; filled marks are decided. "
            f"Shaded: differences of less than {row['margin']:g}, the margin."
        )
        text += f" Too far off to be drawn here: {names}." if names else ""
        apart = [
            str(name) for name, key in ((targets, "targets"), (stack, "stack")) if rows[key].nunique() > 1
        ]
        judged = metric_name(str(row["metric"]).rsplit("/", 1)[-1])
        model = f" with {row['model']}" if row["model"] != "unknown" else ""
        here = f" on {row['dataset']}{model}" if tag else ""
        title = f"Differences from {proper(row['baseline'])}{here}{_where(', '.join(apart))}"
        chart = evidence.forest(part[~far], domain, judged)
        yield figure(slug("differences", tag, *apart), "forest", setting, title, text, chart)


def _where(targets: str) -> str:
    return f", {targets}" if targets else ""


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
    sampling = (
        f"what the choice of {rows:,.0f} test examples alone leaves open (95%); seed noise comes on top"
        if few.any()
        else ""
    )
    if seeds and sampling:
        return f"Bars: {seeds}; for cells with fewer than three seeds {sampling}."
    return (
        f"Bars: {seeds or sampling}."
        if seeds or sampling
        else "No error bars: too few seeds to estimate any."
    )
