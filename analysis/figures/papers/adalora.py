"""AdaLoRA's figures: where the rank goes. Zhang et al. 2023, arXiv:2303.10512, figure 3.

A triplet is alive while its singular value is not zero; the final rank of a matrix is the number of its
living triplets.
"""

from collections.abc import Iterator, Mapping, Sequence

import altair as alt
import numpy as np
import pandas as pd

from analysis.figures.figure import Figure, tooltips
from analysis.figures.papers.view import View, layer, row_name, runs_text, short
from analysis.runs.histories import picked
from analysis.runs.rows import Row

PAPER = "AdaLoRA"
Pattern = tuple[Row, int, str, dict[str, int]]  # cell, seed, run and ranks by matrix


def figures(view: View) -> list[Figure]:
    """What the setting's runs can show of the paper."""
    patterns = [
        (cell, seed, record["run_id"], pattern)
        for cell in view.rows[:40]
        for seed, record in view.records(cell)
        if isinstance(pattern := (record.get("adapter") or {}).get("rank_pattern"), dict) and pattern
    ]
    return [*_ranks(view, patterns), *_budget(view, patterns)]


def _ranks(view: View, patterns: list[Pattern]) -> Iterator[Figure]:
    if not patterns:
        return
    tables, steady = [], []
    for name in dict.fromkeys(row_name(cell) for cell, *_ in patterns):
        own = [pattern for cell, _, _, pattern in patterns if row_name(cell) == name]
        mean = {
            matrix: float(np.mean([p[matrix] for p in own]))
            for matrix in own[0]
            if all(matrix in p for p in own)
        }
        places = {matrix: (short(matrix), layer(matrix) or 0) for matrix in mean}
        kinds, layers, table = grid(mean, places)
        rows, columns = np.indices(table.shape)
        tables.append(
            pd.DataFrame(
                {
                    "panel": name,
                    "kind": [kinds[i] for i in rows.ravel()],
                    "layer": [layers[j] for j in columns.ravel()],
                    "rank": np.round(table.ravel(), 2),
                }
            )
        )
        steady.append((name, mean, len(own)))
    data = pd.concat(tables).dropna()
    order = list(dict.fromkeys(data["panel"]))
    base = alt.Chart(data).encode(
        x=alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("kind:N", sort=list(dict.fromkeys(data["kind"])), title=None, axis=alt.Axis(labelLimit=140)),
    )
    middle = float((data["rank"].min() + data["rank"].max()) / 2)
    chart = alt.layer(
        base.mark_rect().encode(
            color=alt.Color("rank:Q", title="final rank", scale=alt.Scale(scheme="viridis")),
            tooltip=tooltips("panel:N", "kind:N", "layer:O", "rank:Q"),
        ),
        base.mark_text(fontSize=11).encode(
            text=alt.Text("rank:Q", format="~g"),
            color=alt.condition(f"datum.rank < {middle}", alt.value("white"), alt.value("#12202e")),
        ),
    )
    height = max(70, 30 * data["kind"].nunique())
    facet = alt.Facet("panel:N", sort=order, title=None)
    yield view.figure(
        "final_ranks",
        PAPER,
        "Where does the rank go?",
        finding=_where(data, order[0], steady),
        caption="Singular values left in each matrix at the end, averaged over seeds. The paper finds more "
        "in upper "
        "layers and in the feed-forward maps.",
        chart=chart.properties(width=300, height=height).facet(facet=facet, columns=min(2, len(order))),
    )


def _where(data: pd.DataFrame, first: str, steady: list[tuple[str, dict[str, float], int]]) -> str:
    here = data[data["panel"] == first]
    kinds = here.groupby("kind", sort=False)["rank"].mean().sort_values(ascending=False)
    low, high = here["rank"].min(), here["rank"].max()
    runs = next(n for name, _, n in steady if name == first)
    text = f"{first} ends between {low:g} and {high:g} per matrix ({runs_text(runs)})"
    if len(kinds) > 1:
        most, least = (f"{kinds.index[i]} ({kinds.iloc[i]:.1f} on average)" for i in (0, -1))
        text += f", most in {most}, least in {least}"
    if len(steady) > 1:
        (one, a, _), (two, b, _) = steady[0], steady[-1]
        rho = agreement(a, b)
        if not np.isnan(rho):
            text += (
                f"; the patterns of {one} and {two} correlate with {rho:+.2f} (Spearman, {len(a)} matrices)"
            )
    return f"{text}."


def _off_the_plan(planned: np.ndarray, realised: np.ndarray) -> str:
    if len(planned) != len(realised):
        return ""
    apart = np.abs(planned - realised).max()
    return f" (never more than {apart:.0f} off the plan)" if apart else " (as planned at every step)"


def _budget(view: View, patterns: list[Pattern]) -> Iterator[Figure]:
    parts, said = [], []
    for name in dict.fromkeys(row_name(cell) for cell, *_ in patterns):
        run_id = next(run_id for cell, _, run_id, _ in patterns if row_name(cell) == name)
        columns = view.study.history(run_id, ("budget", "budget_realised", "reactivations"))
        if not len(columns["budget"]) or not len(columns["budget_realised"]):
            continue
        for what, key in (("planned", "budget"), ("realised", "budget_realised")):
            parts.append(
                pd.DataFrame(picked(columns[key]), columns=["step", "triplets"]).assign(
                    budget=what, series=name
                )
            )
        back = (
            f", {columns['reactivations'][-1, 1]:.0f} pruned ones came back"
            if len(columns["reactivations"])
            else ""
        )
        gap = _off_the_plan(columns["budget"][:, 1], columns["budget_realised"][:, 1])
        said.append(
            f"{name} goes from {columns['budget'][0, 1]:.0f} to {columns['budget_realised'][-1, 1]:.0f} "
            f"singular values{gap}{back}"
        )
    if not parts:
        return
    data = pd.concat(parts)
    order = list(dict.fromkeys(data["series"]))
    base = alt.Chart(data).encode(
        x=alt.X("step:Q", title="Step"),
        y=alt.Y("triplets:Q", title="Singular values kept", scale=alt.Scale(zero=False)),
        color=alt.Color("series:N", sort=order, scale=alt.Scale(domain=order)),
    )
    chart = alt.layer(
        base.mark_line(strokeDash=[5, 3], interpolate="step-after").transform_filter(
            "datum.budget == 'planned'"
        ),
        base.mark_point(filled=True, size=28, opacity=0.8)
        .encode(tooltip=tooltips("series:N", "budget:N", "step:Q", "triplets:Q"))
        .transform_filter("datum.budget == 'realised'"),
    )
    yield view.figure(
        "budget",
        PAPER,
        "The budget, planned and realised",
        finding="; ".join(said) + f" ({'one run each' if len(said) > 1 else 'one run'}).",
        caption="Dashes: the schedule of the budget over all matrices; points: singular values that are "
        "not zero after a step.",
        chart=chart,
    )


# --- the analysis, on arrays


def grid(
    ranks: Mapping[str, float], place: Mapping[str, tuple[str, int]]
) -> tuple[list[str], list[int], np.ndarray]:
    """Final ranks as (kinds, layers, table (kinds, layers)); NaN where there is no such matrix.

    Args:
        ranks: final rank by matrix.
        place: kind of module and layer of each matrix.
    """
    kinds = list(dict.fromkeys(place[name][0] for name in ranks))
    layers = sorted({place[name][1] for name in ranks})
    table = np.full((len(kinds), len(layers)), np.nan)
    for name, rank in ranks.items():
        kind, layer = place[name]
        table[kinds.index(kind), layers.index(layer)] = rank
    return kinds, layers, table


def agreement(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Spearman's correlation of two rank patterns over the matrices that both have, e.g. at two budgets."""
    from scipy.stats import spearmanr  # half a second, which few reports need

    names: Sequence[str] = sorted(set(first) & set(second))
    return float(spearmanr([first[n] for n in names], [second[n] for n in names]).statistic)
