"""What must not be read into a study: the sentences under "What this cannot show"."""

import numpy as np
import pandas as pd

from analysis import stats
from analysis.compare.verdicts import Verdicts
from analysis.figures.overview import SHARES, with_bars
from analysis.runs.cells import SETTING
from analysis.runs.load import Study


def limits(study: Study, final: pd.DataFrame, found: Verdicts | None) -> list[str]:
    """The limits of a study's final cells and of the verdicts on them."""
    out = _unlearned(study, final)
    if final["n"].max() == 1:
        out.append(
            "One seed cannot show whether a difference belongs to the variant or to chance. How far "
            "another seed, with other "
            "initial values and another order of the data, would move each result was not measured here, "
            "and no error bar in "
            "this report contains it."
        )
    if final["n"].max() < stats.FEWEST_SEEDS:
        groups = [group for _, group in final.groupby([*SETTING, "stack"], sort=True, dropna=False)]
        out += [text for group in groups if (text := _sampling(group))]
        if len(final) > 2:
            out.append(
                f"The best of {len(final)} cells is partly the luckiest of {len(final)}: expect it to do "
                "worse when repeated."
            )
    out += _rates(final) + _collapses(final)
    return out + (_of_verdicts(found) if found is not None else [])


def _unlearned(study: Study, final: pd.DataFrame) -> list[str]:
    """How many runs answer every example alike."""
    constant, runs = study.unlearned(final)
    if not constant:
        return []
    who = "All" if constant == runs else f"{constant} of the"
    return [
        f"{who} {runs} runs behind these results give one answer to every example: nothing was learned "
        "there that a variant could do better or worse. More steps or another learning rate would have to "
        "come first."
    ]


def _sampling(group: pd.DataFrame) -> str:
    """How many cells the choice of test examples alone leaves tied with the best."""
    row = group.iloc[0]
    if row["metric"] not in SHARES or row["split"] != "test" or not row["test_rows"] > 0 or len(group) < 2:
        return ""
    once = with_bars(group.assign(low=np.nan, high=np.nan))
    sign = -1 if row["goal"] == "min" else 1
    best = once.loc[(sign * once["mean"]).idxmax()]
    tied = int((sign * once["mean"] >= sign * (best["bar_low"] if sign > 0 else best["bar_high"])).sum()) - 1
    half = (best["bar_high"] - best["bar_low"]) / 2
    others = f"{tied} of the other {len(group) - 1} cells lie"
    if len(group) == 2:
        others = "the other cell lies" if tied else "the other cell does not lie"
    return (
        f"The {row['test_rows']:,.0f} test examples alone leave ±{half:.3f} open around each result (95%); "
        f"{others} within that of the best."
    )


def _rates(final: pd.DataFrame) -> list[str]:
    out = []
    if len(final) > 1 and (final["rates"] == 1).all():
        out.append(
            "No learning rate was tuned here: this compares the variants at the rates they were given, "
            "not at their best."
        )
    untuned = final[(final["rates"] == 1) & final["scale"].notna()]
    scales = untuned.groupby("lr")["scale"].agg(["min", "max", "size"])
    for lr, row in scales[(scales["size"] > 1) & (scales["max"] > 1.01 * scales["min"])].iterrows():
        out.append(
            f"Cells share the learning rate {lr:g} although the update BA is scaled by {row['min']:.3g} "
            "in some and "
            f"{row['max']:.3g} in others: part of what looks like an effect of rank or variant may be the "
            "learning rate."
        )
    return out


def _collapses(final: pd.DataFrame) -> list[str]:
    """What so many runs without a collapse still allow (Clopper and Pearson, one-sided 95%)."""
    most = int(final["n"].max())
    if most < stats.FEWEST_SEEDS or final[["failed", "diverged"]].to_numpy().any():
        return []
    return [
        f"All {most} runs of a cell were completed, where most were run. Up to {1 - 0.05 ** (1 / most):.0%} "
        "of its runs may still fail or diverge (95%)."
    ]


def _looks(found: Verdicts) -> list[str]:
    """Whether the number of seeds was decided at the start."""
    steps = [row for row in found.table["steps"] if row]
    added = max(steps, key=len, default=())
    if len(added) > 1:
        there = ", then ".join(map(str, added))
        return [
            f"Seeds were requested in steps ({there}). Who looks each time and stops at a verdict finds "
            "some by chance, so p values are multiplied by the number of looks at three seeds or more."
        ]
    return []


def _of_verdicts(found: Verdicts) -> list[str]:
    out = _looks(found)
    judged = found.table[found.table["p_adjusted"].notna()]
    if (judged["n_examples"] == 0).any():
        n = int((judged["n_examples"] == 0).sum())
        out.append(
            f"{n} of {len(judged)} comparisons have no usable per-example scores: their intervals count "
            "seeds as noise and take the test set as it is. Another test set could say otherwise, so none "
            "of them has a verdict."
        )
    if len(judged) and judged["sign_flip_floor"].max() > 0.05:
        row = judged.loc[judged["sign_flip_floor"].idxmax()]
        out.append(
            f"With {row['n_seeds']} paired seeds no test that looks at the signs of the differences alone "
            "can reach p < .05 "
            f"(sign-flip: at best {row['sign_flip_floor']:.4g}); the verdicts lean on the t distribution."
        )
    if found.differing:
        out.append(
            f"Runs of the same setting differ in {', '.join(found.differing)}; they were compared within "
            "each such stack "
            "only, never across. To take them for comparable, build the report with --pool."
        )
    return out
