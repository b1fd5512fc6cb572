"""What must not be read into a study: the sentences under "What this cannot show"."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis import stats
from analysis.compare.comparison import looks
from analysis.compare.conclusion import listed
from analysis.compare.verdicts import Verdicts
from analysis.figures.overview import SHARES, with_bars
from analysis.foreign.independent import is_foreign
from analysis.foreign.rules import unknown
from analysis.runs import identity
from analysis.runs.cells import SETTING
from analysis.runs.load import Study
from analysis.runs.rates import shared
from analysis.text.format import metric_name


def limits(study: Study, final: pd.DataFrame, found: Verdicts | None) -> list[str]:
    """The limits of a study's final cells and of the verdicts on them."""
    out = (
        _of_others(study, found) + _unlearned(study, final) + _unskilled(study, final) + _other_metric(study)
    )
    if final["n"].max() < stats.FEWEST_SEEDS:
        out.append(_few_seeds(final))
    out += _rates(final) + _halved(study, final) + _collapses(final)
    return out + (_of_verdicts(found) if found is not None else [])


def _of_others(study: Study, found: Verdicts | None) -> list[str]:
    """What results of others leave out, which nothing here makes up."""
    if not is_foreign(study) or found is None:
        return []
    return [f"These results were not made by ablora. Not known: {'; '.join(unknown(study, found))}."]


def _other_metric(study: Study) -> list[str]:
    """That the metric was chosen when the runs were there."""
    primaries = [record.get("primary") or {} for record in study.records.values()]
    before = sorted({str(primary["instead_of"]) for primary in primaries if primary.get("instead_of")})
    if not before:
        return []
    return [
        f"The primary metric of the runs is {listed([*map(metric_name, before)])}; they are compared by "
        f"{metric_name(primaries[0]['metric'])}. Of many metrics one favours a variant by chance, so say "
        "which ones you looked at."
    ]


def _few_seeds(final: pd.DataFrame) -> str:
    """What one or two seeds leave open, in one thought."""
    n = int(final["n"].max())
    text = f"{'One seed' if n == 1 else f'{n} seeds'} cannot show whether a difference is due to the variant "
    text += "or to chance: the noise between seeds was not measured"
    groups = [group for _, group in final.groupby([*SETTING, "stack"], sort=True, dropna=False)]
    parts = [sampling for group in groups if (sampling := _sampling(group))]
    if len(final) > 2:
        parts.append(f"the best of {len(final)} cells is partly the luckiest of {len(final)}")
    return "; ".join([text, *parts]) + "."


def _unlearned(study: Study, final: pd.DataFrame) -> list[str]:
    """How many runs give one answer to every example."""
    constant, runs = study.unlearned(final)
    if not constant:
        return []
    who = "All" if constant == runs else f"{constant} of the"
    verb = "gives" if constant == 1 else "give"
    return [
        f"{who} {runs} runs behind these results {verb} the same answer to every example: they learned "
        "nothing, so they cannot show which variant is better. Train longer or with another learning rate."
    ]


def _unskilled(study: Study, final: pd.DataFrame) -> list[str]:
    """Cells that are right no more often than answers that look at no example would be, by dataset."""
    out = []
    for name, group in final.groupby("dataset", sort=False):
        runs = [list(by_seed.values()) for by_seed in group["by_seed"]]
        blind = study.predictions.blind(runs[0][0])
        if blind is None:
            continue
        right = [
            np.mean([study.records[run]["metrics"].get(f"test/{blind.metric}", np.nan) for run in own])
            for own in runs
        ]
        below = group["series"][np.array(right) <= blind.score]
        if len(below):
            who = "all cells" if len(below) == len(group) else listed(sorted(set(below)))
            out.append(
                f"On {name}, {blind.text} would be right on {blind.score:.1%} of the test examples. "
                f"No better than that: {who}."
            )
    return out


def _sampling(group: pd.DataFrame) -> str:
    """How many cells the choice of test examples alone leaves tied with the best."""
    row = group.iloc[0]
    if row["metric"] not in SHARES or row["split"] != "test" or not row["test_rows"] > 0 or len(group) < 2:
        return ""
    once = with_bars(group.assign(low=np.nan, high=np.nan))
    sign = row["sign"]
    best = once.loc[(sign * once["mean"]).idxmax()]
    near, far = ("bar_low", "bar_high") if sign > 0 else ("bar_high", "bar_low")
    within = (sign * once["mean"] >= sign * best[near]) | (sign * once[far] >= sign * best["mean"])
    tied = int(within.sum()) - 1  # by either's interval: those of rare successes are lopsided
    half = (best["bar_high"] - best["bar_low"]) / 2
    others = f"{tied} of the other {len(group) - 1} cells lie"
    if len(group) == 2:
        others = "the other cell lies" if tied else "the other cell does not lie"
    return (
        f"the choice of {row['test_rows']:,.0f} test examples alone makes each result uncertain by "
        f"±{half:.3f} (95%), and {others} within that of the best"
    )


def _rates(final: pd.DataFrame) -> list[str]:
    """What untuned learning rates leave open, and which are shared by cells whose best ones differ."""
    phrases = [
        f"{row['min']:.3g} in some and {row['max']:.3g} in others of the cells at {lr:g}"
        for lr, row in shared(final, ["lr"]).iterrows()
    ]
    scaled = f"the scale of BA times its rank is {listed(phrases)}" if phrases else ""
    if len(final) > 1 and (final["rates"] == 1).all():
        text = "No learning rate was tuned: the variants are compared at the rates they were given, not at "
        text += "their best"
        return [f"{text}; {scaled}." if phrases else f"{text}."]
    what = "part of what looks like an effect of rank or variant may be the learning rate"
    return [f"{scaled[0].upper()}{scaled[1:]}: {what}."] if phrases else []


def _halved(study: Study, final: pd.DataFrame) -> list[str]:
    """What a choice after short runs leaves open."""
    shown = study.runs[study.runs["rung"].notna() & study.runs["group_key"].isin(final["group_key"])]
    if shown.empty:
        return []
    lengths = listed([f"{length:g}" for length in sorted(shown["rung"].unique())])
    full = listed(
        sorted({f"{identity.length(study.records[ids[0]]['spec']) or np.nan:g}" for ids in final["run_ids"]})
    )
    return [
        f"Values were chosen after runs of {lengths} instead of {full} steps or epochs (halving), by the "
        "same rule for every variant. Short runs favour high rates and what learns fast: a variant that "
        "gains late may be compared at a value that is not its best. The intervals count the noise of the "
        "choice among the shortest runs only."
    ]


def _collapses(final: pd.DataFrame) -> list[str]:
    """What so many runs without a collapse still allow (Clopper and Pearson, one-sided 95%)."""
    most = int(final["n"].max())
    if most < stats.FEWEST_SEEDS or final[["failed", "diverged"]].to_numpy().any():
        return []
    return [
        f"No compared run failed or diverged. With {most} runs of a cell, up to {1 - 0.05 ** (1 / most):.0%} "
        "of all its runs might still do so (95%)."
    ]


def _looks(found: Verdicts) -> list[str]:
    """Whether the number of seeds was decided at the start."""
    added = max(found.table["steps"], key=len, default=())
    if len(added) < 2:
        return []
    return [
        f"Seeds were added later: {listed_steps(added)} were requested. To look after each step and stop "
        f"at a verdict finds differences by chance; {paid(added)}."
    ]


def paid(steps: Sequence[int]) -> str:
    """What looks at so many seeds cost."""
    factor = looks(steps) ** 2
    return f"p is multiplied by {factor} for it" if factor > 1 else "no verdict was possible before the last"


def listed_steps(steps: Sequence[int]) -> str:
    """The numbers of seeds, as they grew."""
    return ", then ".join(map(str, steps))


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
            "each such environment only, never across. To treat them as comparable, build "
            "the report with --pool."
        )
    return out
