"""What a verdict is worth as a ranking: whether the two sides were compared fairly.

better, worse    as the verdict says
ahead, behind    the side in front had more points to choose from, so nobody is called the winner
failing          the variant is in front, yet more of its runs failed or diverged, so it is not called better
"""

from collections.abc import Sequence

import pandas as pd

from analysis.compare.budgets import Sides
from analysis.runs.rows import Row, each
from analysis.stats import ALPHA

WORDS = {
    "ahead": "ahead, with more tuning",
    "behind": "behind, with less tuning",
    "failing": "ahead, but more runs failed",
    "": "no verdict",
}  # where the conclusion itself is not what tables and figures say
ORDER = ("better", "worse", "ahead", "behind", "failing", "equivalent", "inconclusive", "")


def concluded(rows: pd.DataFrame) -> pd.DataFrame:
    """Comparisons with `conclusion`, and `said`, the conclusion in words."""
    conclusions = [_conclusion(row) for row in each(rows)]
    return rows.assign(conclusion=conclusions, said=[WORDS.get(name, name) for name in conclusions])


def _conclusion(row: Row) -> str:
    lead = row["p_adjusted"] < ALPHA and row["difference"] > 0 and row["n_examples"] > 0
    if lead and row["verdict"] == "inconclusive":
        return "failing"
    if row["verdict"] not in ("better", "worse"):
        return str(row["verdict"])
    better = row["verdict"] == "better"
    if favoured(row["sides"], variant=better):
        return "ahead" if better else "behind"
    return str(row["verdict"])


def favoured(sides: Sides, *, variant: bool) -> bool:
    """Whether one side had more points to choose from at some rank; one with nothing to tune never counts."""
    pairs = zip(sides.variant, sides.baseline, strict=True)
    points = [(v.points, b.points) if variant else (b.points, v.points) for v, b in pairs]
    return any(0 < theirs < ours for ours, theirs in points)


def on_tuning(row: Row) -> str:
    """What a reader must know of the tuning behind one comparison; empty if it was equal and inside."""
    sides, told = row["sides"], []
    ours, theirs = sides.points
    if not sides.equal:
        told.append(
            f"the tuning was not equal: {ours} points for {row['variant']}, {theirs} for {row['baseline']}"
        )
    for name, budgets in ((row["variant"], sides.variant), (row["baseline"], sides.baseline)):
        edges = sorted({key for budget in budgets for key in budget.edges})
        if edges:
            told.append(f"the {listed(edges)} chosen for {name} lies on the edge of those tried")
    if row["head_rates"]:
        told.append(on_heads(row))
    return "; ".join(told)


def on_heads(row: Row) -> str:
    """That the two sides trained their heads at different rates, which alone can make a difference."""
    ours, theirs = row["head_rates"]
    return f"the head was trained at {ours:g} for {row['variant']}, at {theirs:g} for {row['baseline']}"


def protocol(rows: pd.DataFrame) -> str:
    """How fair the tuning behind all comparisons was, in a sentence; empty where nothing was tuned."""
    every = [side for side in rows["sides"]]
    points = {n for side in every for budget in (*side.variant, *side.baseline) if (n := budget.points)}
    if not points or points == {1}:
        return ""
    if not all(side.equal for side in every):
        return "The sides of some comparisons were not tuned equally, which is said with each."
    seeds = sorted({s for side in every for b in (*side.variant, *side.baseline) for s in b.seeds})
    count = str(points.pop()) if len(points) == 1 else "equally many"
    how = f"Both sides of every comparison were tuned alike, with {count} points for each cell"
    if all(side.apart for side in every):
        return f"{how}, on validation with seeds {listed(list(map(str, seeds)))}, which no comparison uses."
    return f"{how}, but on validation of seeds that are compared as well."


def listed(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
