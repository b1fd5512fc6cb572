"""What adaptation brings back on a 4-bit base. Dettmers et al. 2023, arXiv:2305.14314, section 4.

    recovery = (a4 - b4) / (a16 - b4)

a is the metric with adapters and b without them, on a base of 4 bits or a dense one. Without adapters is the
head alone where there is one, else the model as it was.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from analysis import stats
from analysis.figures.figure import Figure, row_name, rows_axis, tooltips
from analysis.figures.papers.qlora import DENSE, storage_name
from analysis.figures.papers.view import View, interval_text, runs_text
from analysis.runs.rows import Row

WITHOUT = {"probe": "the head alone", "zero": "no training"}  # method -> what it is called
KINDS = (
    "without adapters, 4-bit base",
    "without adapters, dense base",
    "adapters, 4-bit base",
    "adapters, dense base",
)


@dataclass(frozen=True)
class Case:
    """Adapters on a 4-bit base, and the cells that they are measured by."""

    storage: str
    adapted: Row
    dense: Row  # the same adapters on a dense base
    before: Row  # without adapters on the 4-bit base
    dense_before: Row | None

    @property
    def share(self) -> float | None:
        """The recovery; None where adapters gain nothing on the dense base either."""
        sign = -1 if self.dense["goal"] == "min" else 1
        gain = self.dense["mean"] - self.before["mean"]
        return float((self.adapted["mean"] - self.before["mean"]) / gain) if sign * gain > 0 else None

    @property
    def points(self) -> dict[str, float]:
        """What is drawn."""
        cells = (self.before, self.dense_before, self.adapted, self.dense)
        return {kind: cell["mean"] for kind, cell in zip(KINDS, cells, strict=True) if cell is not None}


def figures(view: View) -> Iterator[Figure]:
    """One figure, a row per 4-bit cell that has its like on a dense base and its base without adapters."""
    found = cases(view)
    if not found:
        return
    table = pd.DataFrame(
        [
            {"row": row_name(case.adapted), "what": kind, "value": value}
            for case in found
            for kind, value in case.points.items()
        ]
    )
    kinds = [kind for kind in KINDS if kind in set(table["what"])]
    scale = alt.Scale(domain=kinds)
    chart = (
        alt.Chart(table)
        .mark_point(filled=True, size=90, opacity=0.9)
        .encode(
            x=alt.X("value:Q", title=view.metric, scale=alt.Scale(zero=False), axis=alt.Axis(grid=True)),
            y=rows_axis(dict.fromkeys(table["row"])),
            yOffset=alt.YOffset("what:N", sort=kinds, scale=scale),
            color=alt.Color("what:N", sort=kinds, scale=scale),
            shape=alt.Shape("what:N", sort=kinds, scale=scale),
            tooltip=tooltips("row:N", "what:N", ("value:Q", "", ".4f")),
        )
        .properties(height=max(80, 60 * table["row"].nunique()))
    )
    yield view.figure(
        "recovery",
        "QLoRA",
        "What adaptation brings back on a 4-bit base",
        finding=" ".join(_said(view, group) for group in _by_reference(found)),
        caption="Means over seeds. Recovery: what adapters gain on a 4-bit base over that base without "
        "adapters, as a share of what they gain on a dense base. The paper finds that adapters on all "
        "linear maps bring back what 4 bits lose.",
        chart=chart,
    )


def cases(view: View) -> list[Case]:
    """Every 4-bit cell with adapters that can be measured."""
    kept = ((storage_name(view.spec(cell)), cell) for cell in view.rows)
    rows = [(name, cell) for name, cell in kept if name]
    adapters = [(name, cell) for name, cell in rows if pd.notna(cell["r"])]
    out = []
    for name, cell in adapters:
        like = [c for other, c in adapters if other in DENSE and _alike(view, cell, c)]
        if name in DENSE or not like:
            continue
        dense = min(like, key=lambda c: c["variant"] != cell["variant"])
        before = _without(rows, name)
        if before is not None:
            dense_before = _without(rows, storage_name(view.spec(dense)), before["method"])
            out.append(Case(name, cell, dense, before, dense_before))
    return out


def _alike(view: View, one: Row, other: Row) -> bool:
    """Whether two cells have the same adapters."""
    deltas = {(view.spec(cell).get("variant_axes") or {}).get("delta") for cell in (one, other)}
    return len(deltas) == 1 and all(one[key] == other[key] for key in ("r", "alpha", "targets"))


def _without(rows: list[tuple[str, Row]], storage: str, *methods: str) -> Row | None:
    """The cell without adapters on a base so kept."""
    for method in methods or WITHOUT:
        for name, cell in rows:
            if (name, cell["method"]) == (storage, method):
                return cell
    return None


def _by_reference(found: list[Case]) -> list[list[Case]]:
    """Those that are measured by the same cell together."""
    groups: dict[str, list[Case]] = {}
    for case in found:
        groups.setdefault(case.dense["cell_key"] + case.before["method"], []).append(case)
    return list(groups.values())


def _said(view: View, group: list[Case]) -> str:
    """What adapters of one kind recover on each storage."""
    dense, floor = row_name(group[0].dense), WITHOUT[group[0].before["method"]]
    shares = [
        f"{case.share:.0%} on {case.storage}{_distance(view, case)}"
        for case in group
        if case.share is not None
    ]
    nothing = [case.storage for case in group if case.share is None]
    least = min(int(c["n"]) for case in group for c in (case.adapted, case.dense, case.before))
    text = f"Of the gain of {dense} over {floor}, adapters recover {', '.join(shares)}" if shares else ""
    if nothing:
        text += f"{'; ' if text else ''}{dense} gains nothing over {floor} on {', '.join(nothing)}"
    return f"{text} ({runs_text(least)} each{'' if least >= stats.FEWEST_SEEDS else ', so no verdict'})."


def _distance(view: View, case: Case) -> str:
    """How far the adapted 4-bit base ends from the adapted dense one, where seeds tell."""
    scores, dense = view.study.scores, case.dense["by_seed"]
    found = [
        scores[run] - scores[dense[seed]] for seed, run in case.adapted["by_seed"].items() if seed in dense
    ]
    if len(found) < stats.FEWEST_SEEDS:
        return ""
    return (
        f" ({np.mean(found):+.4f} from the dense base, {interval_text(stats.t_interval(np.array(found)), 4)})"
    )
