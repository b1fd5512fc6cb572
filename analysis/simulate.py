"""python -m analysis.simulate: what the verdicts are worth, on studies whose truth is known.

Every study goes through the functions that choose rates (`experiments.protocol`) and that judge real studies
(`compare.luck`, `compare.comparison`, `compare.verdicts`); only the reading of records is left out. A run of
variant v at rank r with seed s answers example i rightly if

    sqrt(1 - c^2 - e^2) z_i + c z_vi + e z_vrsi  <  Phi^-1(accuracy_vr) sqrt(1 + b^2) + b z_vrs

with independent standard normal z: examples are easy or hard (z_i), variants differ on some of them for good
(z_vi), each run differs as a whole (z_vrs) and on single examples (z_vrsi). With the constants below another
seed moves the accuracy of a run by 1 point (SD).

Where rates are tuned, five of them lie an octave apart; a rate x octaves from the best costs `curvature` x^2
points, and one beyond a `cliff` 30 points an octave more. A tuning point (two seeds) is 1 point (SD) off.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy import special

from analysis import stats
from analysis.compare import luck
from analysis.compare.budgets import Budget, Sides
from analysis.compare.comparison import Comparison
from analysis.compare.verdicts import judged
from analysis.runs.rates import Curve
from experiments.errors import UserError, report_errors
from experiments.protocol import point_noise, smoothed

SEED, VARIANT, RUN = 0.021, 0.06, 0.2  # b, c, e
ACCURACY, POINT = 0.7, 0.01
OCTAVES = np.arange(-2.0, 3.0)
TUNE_SEEDS = 2


@dataclass(frozen=True)
class Truth:
    """A study; accuracies and effects are shares, not points."""

    effects: tuple[float, ...] = (0.0,) * 5  # of the variants beside the baseline
    seeds: int = 3
    ranks: int = 4
    examples: int = 800
    datasets: int = 1
    noisier: int | None = None  # the variant (0: the baseline) that seeds move three times as far
    at_ranks: tuple[int, ...] | None = None  # where the effects hold; None: at all ranks
    curvature: float | None = None  # of the learning rate, in points an octave^2; None: nothing is tuned
    cliff: float | None = None  # in octaves

    def effect(self, variant: str, r: float | str) -> float:
        """The true difference of a comparison."""
        effect = self.effects[int(variant[1:]) - 1]
        at = range(self.ranks) if self.at_ranks is None else self.at_ranks
        return effect * len(at) / self.ranks if r == "all" else effect * (r in at)


def drawn(rng: np.random.Generator, truth: Truth) -> list[Comparison]:
    """The comparisons of one study, before they are judged."""
    return [row for i in range(truth.datasets) for row in _dataset(rng, truth, f"data{i}")]


def scores(rng: np.random.Generator, truth: Truth, accuracy: np.ndarray) -> np.ndarray:
    """Right or wrong (V, R, S, N) at these expected accuracies (V, R)."""
    V, R, S, N = len(truth.effects) + 1, truth.ranks, truth.seeds, truth.examples
    normal = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
    seeds = np.full((V, 1, 1, 1), SEED, np.float32)
    if truth.noisier is not None:
        seeds[truth.noisier] *= 3
    level = special.ndtri(accuracy)[:, :, None, None].astype(np.float32) * np.sqrt(1 + seeds**2)
    examples = np.sqrt(1 - VARIANT**2 - RUN**2) * normal(N) + VARIANT * normal(V, 1, 1, N)
    return np.asarray(examples + RUN * normal(V, R, S, N) < level + seeds * normal(V, R, S, 1))


def _dataset(rng: np.random.Generator, truth: Truth, name: str) -> list[Comparison]:
    V, R = len(truth.effects) + 1, truth.ranks
    accuracy = np.full((V, R), ACCURACY)
    for v, r in np.ndindex(V - 1, R):
        accuracy[v + 1, r] += truth.effect(f"v{v + 1}", r)
    budgets = [[Budget(0, (), (), ())] * R] * V
    if truth.curvature is not None:
        budgets, costs = _tuned(rng, truth)
        accuracy -= costs
    right = scores(rng, truth, accuracy).astype(float)
    places: list[tuple[float | str, list[int]]] = [(float(r), [r]) for r in range(R)]
    places += [("all", list(range(R)))] if R > 1 else []
    return [_compared(right, v, r, at, name, budgets) for v in range(1, V) for r, at in places]


def _tuned(rng: np.random.Generator, truth: Truth) -> tuple[list[list[Budget]], np.ndarray]:
    """The budgets of variants by rank, as real tuning runs give them, and what their choices cost (V, R)."""
    V, R, P = len(truth.effects) + 1, truth.ranks, len(OCTAVES)
    away = OCTAVES - rng.uniform(-0.5, 0.5)
    assert truth.curvature is not None
    cost = 0.01 * truth.curvature * away**2
    if truth.cliff is not None:
        cost = cost + 0.3 * np.maximum(away - truth.cliff, 0)
    seeds = -cost + POINT * np.sqrt(TUNE_SEEDS) * rng.standard_normal((TUNE_SEEDS, V, R, P))
    noise = point_noise(list(seeds.reshape(TUNE_SEEDS, -1).T))
    rate, rank = np.tile(2.0**OCTAVES, R), np.repeat(4.0 * 2.0 ** np.arange(R), P)
    found = []
    for v in range(V):
        score = seeds[:, v].mean(axis=0).ravel()
        names = tuple(f"{r:g}" for r in rank)
        fit = smoothed(rate, rank, score, noise)
        found.append(Curve(names, names, rate, rank, score, ("", ""), noise, fit))
    spread = luck.spread(found)
    budgets: list[list[Budget]] = []
    costs = np.zeros((V, R))
    for v, curve in enumerate(found):
        chosen = curve.fit.score.reshape(R, P).argmax(axis=1)
        costs[v] = cost[chosen] - cost.min()
        regrets = [luck.regret(curve, spread, rate[i])[r * P] for r, i in enumerate(chosen)]
        budgets.append([Budget(P, (100, 101), (), (), P * TUNE_SEEDS, regret=regret) for regret in regrets])
    return budgets, costs


def _compared(
    right: np.ndarray, v: int, r: float | str, at: list[int], dataset: str, budgets: list[list[Budget]]
) -> Comparison:
    found = stats.two_way((right[v, at] - right[0, at]).mean(axis=0), step=1.0)
    return Comparison(
        dataset=dataset,
        model="model",
        metric="accuracy",
        targets="qv",
        alpha=16.0,
        r=r,
        cell_key=f"v{v}-{r}-{dataset}",
        variant=f"v{v}",
        baseline="v0",
        split="test",
        stack="",
        key=(dataset, f"v{v}"),
        cells=tuple((f"v{who}-{rank}-{dataset}", "") for who in (v, 0) for rank in at),
        variant_r=0.0,
        margin=0.01,
        sides=Sides(tuple(budgets[v][i] for i in at), tuple(budgets[0][i] for i in at)),
        head_rates=None,
        falling=False,
        failed=0,
        failed_baseline=0,
        seeds=tuple(range(right.shape[2])),
        steps=(),
        rates=("", ""),
        left_out=(),
        ranks=tuple(map(float, at)),
        by_rank=right[[v, 0]][:, at].mean(axis=3),
        sign=1.0,
        learned=True,
        found=found,
        difference=found.mean,
        n_examples=found.n_examples,
    )


def outcome(truth: Truth, seed: int) -> tuple[float, float, float, float]:
    """Of one study: any false verdict, the first variant found, also over datasets, coverage."""
    table, across = judged(drawn(np.random.default_rng(seed), truth))
    effects = [truth.effect(v, r) for v, r in zip(table["variant"], table["r"], strict=True)]
    claims = table["verdict"].isin(("better", "worse")).to_numpy()
    false = (claims & (np.sign(table["difference"]) != np.sign(effects))).any()
    found = table["overall"] & (table["variant"] == "v1")
    over = np.nan
    if len(across):
        true = np.array([truth.effect(v, "all" if truth.ranks > 1 else 0.0) for v in across["variant"]])
        wrong = across["verdict"].isin(("better", "worse")) & (np.sign(across["difference"]) != np.sign(true))
        false, over = (
            false or wrong.any(),
            (across.loc[across["variant"] == "v1", "verdict"] == "better").all(),
        )
    cover = (table["ci_low"] <= effects) & (effects <= table["ci_high"])
    better = (table.loc[found, "verdict"] == "better").mean()
    return float(false), float(better), float(over), float(cover[table["overall"]].mean())


ONE, TWO = (0.01, 0.0, 0.0, 0.0, 0.0), (0.02, 0.0, 0.0, 0.0, 0.0)
PLAIN = Truth()
TUNED = {
    "flat, 0.3 points an octave^2": Truth(examples=1300, curvature=0.3),
    "1 point an octave^2": Truth(examples=1300, curvature=1.0),
    "steep, 2 points an octave^2": Truth(examples=1300, curvature=2.0),
    "0.5 points, a cliff 1.5 octaves off": Truth(examples=1300, curvature=0.5, cliff=1.5),
}
KINDS = {
    "no difference": PLAIN,
    "no difference, one variant three times noisier": Truth(noisier=3),
    "no difference, the baseline three times noisier": Truth(noisier=0),
    "one variant better by 1 point": Truth(effects=ONE),
}
SEEDS = (3, 5, 10)
TABLES: dict[str, dict[str, Truth]] = {
    "Tuning luck: six identical variants, 5 rates, 2 tuning seeds, 1 point (SD) per tuning point": {
        f"{name}; ranks: {ranks}, seeds: {seeds}": replace(truth, ranks=ranks, seeds=seeds)
        for name, truth in TUNED.items()
        for ranks in (1, 4)
        for seeds in SEEDS
    },
    "Power: six variants at four ranks, 800 examples, seeds 1 point (SD)": {
        f"{name}; seeds: {seeds}": replace(truth, seeds=seeds)
        for name, truth in KINDS.items()
        for seeds in SEEDS
    }
    | {
        "one variant better by 2 points; seeds: 3": Truth(effects=TWO),
        "three better by 2 points at one rank alone; seeds: 5": Truth(
            seeds=5, effects=(0.02, 0.02, 0.02, 0.0, 0.0), at_ranks=(0,)
        ),
        "one rank, one variant better by 2 points; seeds: 5": Truth(ranks=1, seeds=5, effects=TWO),
        "one rank, no difference, one three times noisier; seeds: 3": Truth(ranks=1, noisier=3),
        "two variants alone, better by 2 points; seeds: 5": Truth(seeds=5, effects=(0.02,)),
    },
    "Four datasets: six variants at four ranks, 800 examples each": {
        "no difference; seeds: 3": Truth(datasets=4),
        "one variant better by 1 point on each; seeds: 3": Truth(datasets=4, effects=ONE),
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.simulate",
        description="Error rates, power and coverage of the verdicts, on simulated studies.",
    )
    parser.add_argument("--studies", type=int, default=250, help="of each kind (default: 250)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    options = parser.parse_args(arguments)
    return report_errors(lambda: _show(options))


def _show(options: argparse.Namespace) -> None:
    if options.studies < 2 or options.jobs < 1:
        raise UserError("--studies takes a whole number above 1, --jobs one above 0")
    with ProcessPoolExecutor(options.jobs) as pool:
        for title, kinds in TABLES.items():
            kinds = {name: truth for name, truth in kinds.items() if options.only in f"{title} {name}"}
            print(f"\n{title}\n" * bool(kinds), end="")
            for name, truth in kinds.items():
                found = list(pool.map(partial(outcome, truth), range(options.studies), chunksize=10))
                print(f"  {name:<70} {_told(np.array(found))}", flush=True)


def _told(found: np.ndarray) -> str:
    """Means with their Monte Carlo errors."""
    n = len(found)
    rate = lambda p: f"{p:.3f} ({np.sqrt(max(p * (1 - p), 0.25 / n) / n):.3f})"  # noqa: E731
    false, better, over, cover = found.mean(axis=0)
    text = f"false verdict {rate(false)}  first variant better {rate(better)}"
    text += "" if np.isnan(over) else f"  over datasets {rate(over)}"
    return f"{text}  coverage {cover:.3f} ({found[:, 3].std(ddof=1) / np.sqrt(n):.3f})"


if __name__ == "__main__":
    sys.exit(main())
