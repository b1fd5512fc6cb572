"""Simulated studies whose truth is known: the runs, and their comparisons as real studies have them.

A run of variant v at rank r with seed s answers example i rightly if

    sqrt(1 - c^2 - e^2) z_i + c z_vi + e z_vrsi  <  Phi^-1(accuracy_vr) sqrt(1 + b^2) + b z_vrs

with independent standard normal z: examples are easy or hard (z_i), variants differ on some of them for good
(z_vi), each run differs as a whole (z_vrs) and on single examples (z_vrsi). With the constants below another
seed moves the accuracy of a run by 1 point (SD).

Where rates are tuned, five of them lie an octave apart; a rate x octaves from the best costs `curvature` x^2
points, and one beyond a `cliff` 30 points an octave more. A tuning point (two seeds) is 1 point (SD) off.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis import stats
from analysis.compare import luck
from analysis.compare.budgets import Budget, Sides
from analysis.compare.comparison import Comparison
from analysis.runs.rates import Curve
from experiments.protocol import point_noise, smoothed

SEED, VARIANT, RUN = 0.021, 0.06, 0.2  # b, c, e
ACCURACY, POINT = 0.7, 0.01
OCTAVES = np.arange(-2.0, 3.0)
RATES = 2.0**OCTAVES
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


@dataclass(frozen=True)
class Sample:
    """What the runs of one dataset gave."""

    right: np.ndarray  # (V, R, S, N) whether examples were answered rightly
    budgets: list[list[Budget]]  # of variants by rank
    tuning: np.ndarray  # (TUNE_SEEDS, V, R, P) validation scores at `RATES`; P = 0 where nothing was tuned
    chosen: np.ndarray  # (V, R) which of the rates was taken


def samples(rng: np.random.Generator, truth: Truth) -> dict[str, Sample]:
    """The runs of one study, by dataset."""
    return {f"data{i}": _sample(rng, truth) for i in range(truth.datasets)}


def drawn(found: dict[str, Sample]) -> list[Comparison]:
    """The comparisons of one study, before they are judged."""
    return [row for name, sample in found.items() for row in _rows(sample, name)]


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


def _sample(rng: np.random.Generator, truth: Truth) -> Sample:
    V, R = len(truth.effects) + 1, truth.ranks
    accuracy = np.full((V, R), ACCURACY)
    for v, r in np.ndindex(V - 1, R):
        accuracy[v + 1, r] += truth.effect(f"v{v + 1}", r)
    budgets = [[Budget(0, (), (), ())] * R] * V
    tuning, chosen = np.empty((TUNE_SEEDS, V, R, 0)), np.zeros((V, R), int)
    if truth.curvature is not None:
        budgets, costs, tuning, chosen = _tuned(rng, truth)
        accuracy -= costs
    return Sample(scores(rng, truth, accuracy).astype(float), budgets, tuning, chosen)


def _rows(sample: Sample, name: str) -> list[Comparison]:
    V, R = sample.right.shape[:2]
    places: list[tuple[float | str, list[int]]] = [(float(r), [r]) for r in range(R)]
    places += [("all", list(range(R)))] if R > 1 else []
    return [_compared(sample.right, v, r, at, name, sample.budgets) for v in range(1, V) for r, at in places]


def _tuned(
    rng: np.random.Generator, truth: Truth
) -> tuple[list[list[Budget]], np.ndarray, np.ndarray, np.ndarray]:
    """Budgets as tuning runs give them, what their choices cost (V, R), the scores, the choices (V, R)."""
    V, R, P = len(truth.effects) + 1, truth.ranks, len(OCTAVES)
    away = OCTAVES - rng.uniform(-0.5, 0.5)
    assert truth.curvature is not None
    cost = 0.01 * truth.curvature * away**2
    if truth.cliff is not None:
        cost = cost + 0.3 * np.maximum(away - truth.cliff, 0)
    seeds = -cost + POINT * np.sqrt(TUNE_SEEDS) * rng.standard_normal((TUNE_SEEDS, V, R, P))
    noise = point_noise(list(seeds.reshape(TUNE_SEEDS, -1).T))
    rate, rank = np.tile(RATES, R), np.repeat(rank_of(np.arange(R)), P)
    found = []
    for v in range(V):
        score = seeds[:, v].mean(axis=0).ravel()
        names = tuple(f"{r:g}" for r in rank)
        fit = smoothed(rate, rank, score, noise)
        found.append(Curve(names, names, rate, rank, score, ("", ""), noise, fit))
    spread = luck.spread(found)
    budgets: list[list[Budget]] = []
    chosen = np.array([curve.fit.score.reshape(R, P).argmax(axis=1) for curve in found])
    for v, curve in enumerate(found):
        regrets = [luck.regret(curve, spread, rate[i])[r * P] for r, i in enumerate(chosen[v])]
        budgets.append([Budget(P, (100, 101), (), (), P * TUNE_SEEDS, regret=regret) for regret in regrets])
    return budgets, cost[chosen] - cost.min(), seeds, chosen


def rank_of(r: np.ndarray) -> np.ndarray:
    """The ranks behind their numbers."""
    return np.asarray(4.0 * 2.0**r)


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
        key=(dataset, f"v{v}"),
        cells=(
            tuple((f"v{v}-{rank}-{dataset}", "") for rank in at),
            tuple((f"v0-{rank}-{dataset}", "") for rank in at),
        ),
        variant_r=0.0,
        margin=0.01,
        sides=Sides(tuple(budgets[v][i] for i in at), tuple(budgets[0][i] for i in at)),
        seeds=tuple(range(right.shape[2])),
        ranks=tuple(map(float, at)),
        by_rank=right[[v, 0]][:, at].mean(axis=3),
        found=found,
        difference=found.mean,
        n_examples=found.n_examples,
    )
