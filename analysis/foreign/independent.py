"""Verdicts on results of others: without scores by example and common seeds, samples are independent.

    d = mean_v - mean_b        Var(d) = s_v^2 / S_v + s_b^2 / S_b + p_v (1 - p_v) / n + p_b (1 - p_b) / n

s^2 is the variance between the S runs of one side, with Welch's degrees of freedom. Where the spreads of all
methods of a setting agree (Bartlett's test, p > .1), they are pooled: the variance is the larger of the
pooled one and the pair's own, with the degrees of freedom of all. Five methods with 3 runs each are then
called different without reason in .01 of comparisons at a level of .0125 (.007 by Welch), in .04 where one
of them is three times noisier than the rest; a difference of 4 SD is found in .86 instead of .50.

p (1 - p) / n is what the choice of n test examples does to a share of them, for one side as if the other were
scored on other examples. Runs of a side share their test set, so their number does not make it smaller. A
pairing by example would give narrower intervals: what is decided here would be decided with it, hardly the
reverse.

Rates chosen on the test set. The best of k is at most max_i (v_i - b_j) ahead of a baseline whose best true
rate is j, so by Bonferroni's inequality p is multiplied by k, the number of rates that were tried, and the
interval, at 1 - .05 / k, is one of the difference between the best rates of both grids.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis import stats
from analysis.compare import verdicts as compare
from analysis.compare.conclusion import concluded
from analysis.compare.verdicts import Verdicts
from analysis.runs.cells import Key, by_key, key_of
from analysis.runs.load import Study
from analysis.runs.predictions import MEANS
from analysis.runs.rows import Row, each
from experiments.errors import UserError

NO_SIZE = "the number of test examples is not known, so neither is their noise (--examples says it)"
_RESULT = ("difference", "n_seeds", "n_examples", "found", "se", "ci_low", "ci_high", "p", "p_tost",
           "smallest_detectable", "tried", "why")  # fmt: skip


def is_foreign(study: Study) -> bool:
    """Whether the runs of a study are of somebody else."""
    return any("source" in record for record in study.records.values())


def verdicts(
    study: Study, cells: pd.DataFrame, *, baseline: str = "lora", margin: float | None = None
) -> Verdicts:
    """The verdicts on a study, whoever ran it; arguments and errors as those of `compare.verdicts`."""
    if not is_foreign(study):
        return compare.verdicts(study, cells, baseline=baseline, margin=margin)
    found = compare.verdicts(study, cells, baseline=_baseline(study, baseline), margin=margin)
    return _judged(cells, found)


def _baseline(study: Study, asked: str) -> str:
    """The method to compare with: the one asked for, else plain LoRA by whatever name it has."""
    names = set(study.runs["variant"])
    if asked != "lora" or asked in names:
        return asked
    plain = {r["spec"]["variant"] for r in study.records.values() if (r.get("source") or {}).get("plain")}
    if plain:
        return str(min(plain, key=lambda name: (len(name), name)))
    shown = ", ".join(sorted(names)[:12]) + (", ..." if len(names) > 12 else "")
    raise UserError(
        f"no method is called lora; name the one to compare with by --baseline. There are: {shown}."
    )


@dataclass(frozen=True)
class Side:
    """One side of a comparison over its ranks: mean score, variance of that mean, and runs per cell."""

    mean: float
    between: float  # squared standard error of the mean, from the spread between runs; nan with one run
    df: float
    runs: int  # of the cell with the fewest
    n: float  # test examples; nan if unknown


def side(cells: list[Row]) -> Side:
    """The side of these cells; its mean gives each the same weight."""
    k = len(cells)
    parts = np.array([cell["sd"] ** 2 / cell["n"] if cell["n"] > 1 else np.nan for cell in cells])
    between = float(parts.sum() / k**2)
    counts = np.array([max(cell["n"] - 1, 1) for cell in cells])
    spread = float((parts**2 / counts).sum())
    df = float(parts.sum() ** 2 / spread) if spread > 0 else float(counts.sum())
    return Side(
        mean=float(np.mean([cell["mean"] for cell in cells])),
        between=between,
        df=df,
        runs=int(min(cell["n"] for cell in cells)),
        n=float(np.min([cell["test_rows"] for cell in cells])),
    )


def _judged(cells: pd.DataFrame, found: Verdicts) -> Verdicts:
    table = found.table.assign(tried=1)
    evidence = _Evidence(by_key(cells), chosen_on_test(cells))
    known = [evidence.of(row) for row in each(table)]
    for name in _RESULT:
        table[name] = pd.Series([values[name] for values in known], table.index, dtype=table[name].dtype)
    for _, family in table.groupby("overall"):
        for name, p in (("p_adjusted", family["p"]), ("p_equivalent", family["p_tost"])):
            there = p.notna()
            table.loc[p.index, name] = np.nan
            table.loc[p.index[there], name] = stats.holm(p[there].to_numpy(float))
            table.loc[p.index, "share"] = 1 / max(int(there.sum()), 1)
    table["detectable_in_family"] = [
        compare.detectable(row, row["share"] / row["tried"]) for row in each(table)
    ]
    table["verdict"] = [compare.verdict_of(row) for row in each(table)]
    found.across = found.across[:0]  # means over paired datasets, which there are none of
    found.table = concluded(table).assign(sign_flip=np.nan, sign_flip_floor=np.nan, independent=True)
    return found


def chosen_on_test(cells: pd.DataFrame) -> dict[Key, int]:
    """Cells whose rate can only have been chosen by its test result, with the number of rates."""
    out = {}
    results = cells[~cells["tuning"] & (cells["n"] > 0) & (cells["split"] == "test")]
    for _, group in results.groupby(["group_key", "stack"], sort=False):
        if len(group) > 1 and group["validation"].isna().any() and group["final"].any():
            out[key_of(each(group[group["final"]])[0])] = len(group)
    return out


@dataclass(frozen=True)
class _Evidence:
    """What decides a comparison: the final cells by key, and those chosen on the test set."""

    cells: Mapping[Key, Row]
    tried: Mapping[Key, int]  # rates

    def of(self, row: Row) -> dict[str, Any]:
        """The evidence of one comparison."""
        sides = [[self.cells[key] for key in keys] for keys in row["cells"]]
        ours, plain = map(side, sides)
        nan = float("nan")
        tried = max(self.tried.get(key, 1) for keys in row["cells"] for key in keys)
        runs, mean = min(ours.runs, plain.runs), float(row["sign"] * (ours.mean - plain.mean))
        out: dict[str, Any] = dict.fromkeys(_RESULT, nan)
        out |= {"difference": mean, "n_seeds": runs, "n_examples": 0, "found": None, "tried": tried}
        share = row["metric"] in MEANS and ours.n > 0 and plain.n > 0
        sampling = sum(s.mean * (1 - s.mean) / s.n for s in (ours, plain)) if share else 0.0
        if runs < stats.FEWEST_SEEDS:
            return out | {"why": _too_few(runs, mean, sampling)}
        n = int(min(ours.n, plain.n)) if share else 0
        between, df = self._between(ours, plain, [*sides[0], *sides[1]])
        noise = stats.Noise(seeds=between, seeds_df=df, examples=sampling, examples_df=max(n - 1, 1))
        wide = noise.half_width(stats.ALPHA / tried)
        d = stats.Difference(mean=mean, noise=noise, n_seeds=runs, n_examples=n)
        return out | {
            "n_examples": n,
            "found": d,
            "se": noise.se,
            "ci_low": mean - wide,
            "ci_high": mean + wide,
            "p": min(1.0, tried * d.p),
            "p_tost": min(1.0, tried * stats.equivalence_p(d, row["margin"])),
            "smallest_detectable": stats.smallest_detectable(noise, alpha=stats.ALPHA / tried) if n else nan,
            "why": "" if n else NO_SIZE,
        }

    def _between(self, ours: Side, plain: Side, cells: list[Row]) -> tuple[float, float]:
        """The variance of the difference between runs, and its degrees of freedom."""
        own = ours.between + plain.between
        spread = ours.between**2 / ours.df + plain.between**2 / plain.df
        df = own**2 / spread if spread > 0 else ours.df + plain.df
        place = {cell["peer_key"] for cell in cells}
        peers = [c for c in self.cells.values() if c["peer_key"] in place and c["n"] > 1]
        variance, pooled_df = pooled(peers)
        if not variance > 0:
            return own, df
        shared = sum(variance / cell["n"] for cell in cells) / (len(cells) // 2) ** 2
        return max(own, shared), max(df, pooled_df)


def pooled(cells: list[Row]) -> tuple[float, float]:
    """The variance between runs that these cells share, with its degrees of freedom; nan where they do not.

    Bartlett's test of equal variances, p > .1, over at least three cells.
    """
    df = np.array([cell["n"] - 1 for cell in cells], float)
    variances = np.array([cell["sd"] ** 2 for cell in cells], float)
    if len(cells) < 3 or not (variances > 0).all():
        return float("nan"), 0.0
    mean = float((df * variances).sum() / df.sum())
    correction = 1 + ((1 / df).sum() - 1 / df.sum()) / (3 * (len(cells) - 1))
    statistic = (df.sum() * np.log(mean) - (df * np.log(variances)).sum()) / correction
    if special.chdtrc(len(cells) - 1, statistic) <= 0.1:
        return float("nan"), 0.0
    return mean, float(df.sum())


def _too_few(runs: int, difference: float, sampling: float) -> str:
    """Why so few runs give no verdict, and what the squared standard error `sampling` leaves open."""
    text = {0: "no run", 1: "one run"}.get(runs, f"{runs} runs")
    text += f" a side, and a verdict needs {stats.FEWEST_SEEDS}: what another seed would do is not known"
    if not sampling > 0:
        return text
    open_ = 1.96 * np.sqrt(sampling)
    where = "within" if abs(difference) <= open_ else "more than"
    return f"{text}; {difference:+.3f} is {where} the ±{open_:.3f} that other test examples could change"
