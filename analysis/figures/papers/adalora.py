"""AdaLoRA's figures: where the rank goes. Zhang et al. 2023, arXiv:2303.10512, figure 3.

A triplet is alive while its singular value is not zero; the final rank of a matrix is the number of its
living triplets.
"""

from collections.abc import Iterator, Mapping

import altair as alt
import numpy as np
import pandas as pd

from analysis.figures.figure import Figure, on_viridis, row_name, tooltips
from analysis.figures.papers.view import View, layer, runs_text, short
from analysis.runs.histories import picked

PAPER = "AdaLoRA"
Patterns = Mapping[str, list[tuple[str, dict[str, int]]]]  # name of a cell -> its runs, the ranks by matrix


def figures(view: View) -> list[Figure]:
    """What the setting's runs can show of the paper."""
    patterns: dict[str, list[tuple[str, dict[str, int]]]] = {}
    for cell in view.rows[:40]:
        for record in view.records(cell):
            pattern = (record.get("adapter") or {}).get("rank_pattern")
            if isinstance(pattern, dict) and pattern:
                patterns.setdefault(row_name(cell), []).append((record["run_id"], pattern))
    return [*_ranks(view, patterns), *_budget(view, patterns)]


def _ranks(view: View, patterns: Patterns) -> Iterator[Figure]:
    if not patterns:
        return
    means = {name: _mean([pattern for _, pattern in runs]) for name, runs in patterns.items()}
    data = pd.DataFrame(
        [
            {"panel": name, "kind": short(matrix), "layer": layer(matrix) or 0, "rank": round(rank, 2)}
            for name, mean in means.items()
            for matrix, rank in mean.items()
        ]
    )
    base = alt.Chart(data).encode(
        x=alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("kind:N", sort=list(dict.fromkeys(data["kind"])), title=None, axis=alt.Axis(labelLimit=140)),
    )
    chart = alt.layer(
        base.mark_rect().encode(
            color=alt.Color("rank:Q", title="final rank", scale=alt.Scale(scheme="viridis")),
            tooltip=tooltips("panel:N", "kind:N", "layer:O", "rank:Q"),
        ),
        base.mark_text(fontSize=11).encode(
            text=alt.Text("rank:Q", format="~g"), color=on_viridis("rank", data["rank"])
        ),
    )
    height = max(70, 30 * data["kind"].nunique())
    facet = alt.Facet("panel:N", sort=list(patterns), title=None)
    yield view.figure(
        "final_ranks",
        "Where does the rank go?",
        finding=_where(data, patterns, means),
        caption="Singular values left in each matrix at the end, averaged over seeds. The paper finds more "
        "in upper layers and in the feed-forward maps.",
        chart=chart.properties(width=300, height=height).facet(facet=facet, columns=min(2, len(patterns))),
    )


def _mean(patterns: list[dict[str, int]]) -> dict[str, float]:
    """The mean rank of each matrix that all of these runs have."""
    return {
        matrix: float(np.mean([pattern[matrix] for pattern in patterns]))
        for matrix in patterns[0]
        if all(matrix in pattern for pattern in patterns)
    }


def _where(data: pd.DataFrame, patterns: Patterns, means: Mapping[str, Mapping[str, float]]) -> str:
    first, last = next(iter(means)), list(means)[-1]
    here = data[data["panel"] == first]
    kinds = here.groupby("kind", sort=False)["rank"].mean().sort_values(ascending=False)
    low, high = here["rank"].min(), here["rank"].max()
    text = f"{first} ends between {low:g} and {high:g} per matrix ({runs_text(len(patterns[first]))})"
    if len(kinds) > 1:
        most, least = (f"{kinds.index[i]} ({kinds.iloc[i]:.1f} on average)" for i in (0, -1))
        text += f", most in {most}, least in {least}"
    if first != last and not np.isnan(rho := agreement(means[first], means[last])):
        text += f"; the patterns of {first} and {last} correlate with {rho:+.2f} "
        text += f"(Spearman, {len(means[first])} matrices)"
    return f"{text}."


def _off_the_plan(planned: np.ndarray, realised: np.ndarray) -> str:
    if len(planned) != len(realised):
        return ""
    apart = np.abs(planned - realised).max()
    return f" (never more than {apart:.0f} off the plan)" if apart else " (as planned at every step)"


def _budget(view: View, patterns: Patterns) -> Iterator[Figure]:
    parts, said = [], []
    for name, runs in patterns.items():
        columns = view.study.history(runs[0][0], ("budget", "budget_realised", "reactivations"))
        planned, realised, back = columns.values()
        if not len(planned) or not len(realised):
            continue
        for what, points in (("planned", planned), ("realised", realised)):
            table = pd.DataFrame(picked(points), columns=["step", "triplets"])
            parts.append(table.assign(budget=what, series=name))
        said.append(
            f"{name} goes from {planned[0, 1]:.0f} to {realised[-1, 1]:.0f} singular values"
            + _off_the_plan(planned[:, 1], realised[:, 1])
            + (f", {back[-1, 1]:.0f} pruned ones came back" if len(back) else "")
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
        "The budget, planned and realised",
        finding="; ".join(said) + f" ({'one run each' if len(said) > 1 else 'one run'}).",
        caption="Dashes: the schedule of the budget over all matrices; points: singular values that are "
        "not zero after a step.",
        chart=chart,
    )


def agreement(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Spearman's correlation of two rank patterns over the matrices that both have, e.g. at two budgets."""
    from scipy.stats import spearmanr  # half a second, which few reports need

    names = sorted(set(first) & set(second))
    return float(spearmanr([first[n] for n in names], [second[n] for n in names]).statistic)
