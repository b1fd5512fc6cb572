"""What a verdict is worth: whether the two sides were compared fairly.

better, worse    as the verdict says
ahead, behind    the verdict says better or worse, and something speaks for the side in front (or might)
failing          the variant is in front, yet more of its runs failed or diverged, so it is not called better
equivalent       as the verdict says
withheld         the verdict says equivalent, and something may hide a difference

What bars a plain verdict is said with it (`bar`), in the headline too:

    the side in front had more points or more runs to choose from; for equivalence, either side
    a chosen value was confirmed whose tuning runs are not in the study
    the rate of the side behind lies on the edge of those tried; for equivalence, that of either side
    the heads were trained at rates that are `HEADS` times apart or more
    for equivalence, more runs failed or diverged on one side, or the validation loss still fell at the end
"""

from collections.abc import Sequence

import pandas as pd

from analysis.compare.budgets import Sides
from analysis.runs.rows import Row, each
from analysis.stats import ALPHA

HEADS = 2.0
WORDS = {
    "ahead": "ahead, {bar}",
    "behind": "behind, {bar}",
    "failing": "ahead, but more runs failed",
    "withheld": "equivalence withheld: {bar}",
    "": "no verdict",
}  # where the conclusion itself is not what tables and figures say
_BARRED = {"equivalent": "withheld", "better": "ahead", "worse": "behind"}
ORDER = ("better", "worse", "ahead", "behind", "failing", "equivalent", "withheld", "inconclusive", "")


def concluded(rows: pd.DataFrame) -> pd.DataFrame:
    """Comparisons with `conclusion`, `bar` (empty if nothing does) and `said`, the conclusion in words."""
    found = [_conclusion(row) for row in each(rows)]
    names, bars = [name for name, _ in found], [bar for _, bar in found]
    said = [WORDS.get(name, name).format(bar=bar) for name, bar in found]
    return rows.assign(conclusion=names, bar=bars, said=said)


def _conclusion(row: Row) -> tuple[str, str]:
    verdict, bar = str(row["verdict"]), ""
    ahead = row["p_adjusted"] < ALPHA and row["difference"] > 0
    if verdict == "inconclusive" and ahead and row["n_examples"]:
        return "failing", ""
    if verdict == "equivalent":
        bar = _against_equivalence(row)
    elif verdict in ("better", "worse"):
        bar = _against_lead(row, variant=verdict == "better")
    return (_BARRED[verdict] if bar else verdict), bar


def _against_lead(row: Row, *, variant: bool) -> str:
    """What speaks against calling the side in front the better one."""
    if favoured(row["sides"], variant=variant):
        return "with more tuning" if variant else "with less tuning"
    trailing = "baseline" if variant else "variant"
    if any(budget.edges for budget in getattr(row["sides"], trailing)):
        return f"while the rate of {row[trailing]} lies on the edge of those tried"
    return _of_both(row)


def _against_equivalence(row: Row) -> str:
    """What may hide a difference between two sides that look equal."""
    if row["failed"] != row["failed_baseline"]:
        return "more runs failed or diverged on one side"
    if row["falling"]:
        return "the validation loss was still falling when training ended"
    if not row["sides"].equal:
        return "one side was tuned more"
    if any(budget.edges for budget in row["sides"].both):
        return "a rate lies on the edge of those tried"
    return _of_both(row)


def _of_both(row: Row) -> str:
    if row["sides"].unknown:
        return "with tuning runs that are not in this study"
    rates = row["head_rates"]
    return "with another learning rate of the head" if rates and max(rates) >= HEADS * min(rates) else ""


def favoured(sides: Sides, *, variant: bool) -> bool:
    """Whether one side had more to choose from at some rank; one with nothing to tune never counts."""
    pairs = zip(sides.variant, sides.baseline, strict=True)
    tried = [(v, b) if variant else (b, v) for v, b in pairs]
    return any(theirs.points and ours.effort > theirs.effort for ours, theirs in tried)


def on_tuning(row: Row) -> str:
    """What a reader must know of the tuning behind one comparison; empty if it was equal and inside."""
    sides, reasons = row["sides"], []
    ours, theirs = sides.points
    if not sides.equal:
        what = f"{ours} points for {row['variant']}, {theirs} for {row['baseline']}"
        if ours == theirs:
            ours, theirs = (max(b.runs for b in side) for side in (sides.variant, sides.baseline))
            what = f"{ours} runs for {row['variant']}, {theirs} for {row['baseline']}"
        reasons.append(f"the tuning was not equal: {what}")
    if sides.unknown:
        reasons.append("the rates were confirmed, but the runs that chose them are not in this study")
    for name, budgets in ((row["variant"], sides.variant), (row["baseline"], sides.baseline)):
        edges = sorted({key for budget in budgets for key in budget.edges})
        if edges:
            reasons.append(f"the {listed(edges)} chosen for {name} lies on the edge of those tried")
    if row["head_rates"]:
        reasons.append(on_heads(row))
    return "; ".join(reasons)


def on_heads(row: Row) -> str:
    """That the two sides trained their heads at different rates, which alone can make a difference."""
    ours, theirs = row["head_rates"]
    return f"the head was trained at {ours:g} for {row['variant']}, at {theirs:g} for {row['baseline']}"


def protocol(rows: pd.DataFrame) -> str:
    """How fair the tuning behind all comparisons was, in a sentence; empty where nothing was tuned."""
    every = [budget for sides in rows["sides"] for budget in sides.both]
    points = {budget.points for budget in every} - {0}
    if not points or points == {1}:
        return ""
    if not all(sides.equal for sides in rows["sides"]):
        return "The sides of some comparisons were not tuned equally, which is said with each."
    seeds = sorted({seed for budget in every for seed in budget.seeds})
    count = str(points.pop()) if len(points) == 1 else "equally many"
    how = f"Both sides of every comparison were tuned equally, with {count} points for each cell"
    if "independent" in rows:  # results of others, which may have been chosen by the test set
        return f"{how}."
    if all(budget.apart for budget in every if budget.points):
        return f"{how}, on validation with seeds {listed(list(map(str, seeds)))}, which no comparison uses."
    return f"{how}, but on validation of seeds that are compared as well."


def listed(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
