"""Statistics of one comparison: pure functions on arrays.

The headline is `two_way`: seeds and test examples are crossed random effects, and both count as noise.

    d_si = mu + a_s + b_i + e_si        s = 1..S seeds, i = 1..N examples, d = variant - baseline
    A = N sum_s (d_s. - d..)^2 / (S-1)              B = S sum_i (d_.i - d..)^2 / (N-1)
    E = sum_si (d_si - d_s. - d_.i + d..)^2 / ((S-1)(N-1))
    Var(d..) is estimated by (A + C) / (SN),  C = max(B - E, 0)

The half-width is sqrt((t_{S-1}^2 A + t_{N-1}^2 C) / (SN)): each part of the variance brings the t quantile of
its own degrees of freedom (modified large-sample intervals, Graybill and Wang 1980). With C = 0 it is the
paired t interval over seeds. The more usual single quantile with Satterthwaite's degrees of freedom covers
92.2% where it should cover 95% at 3 seeds, when seeds make most of the noise and examples a little of it;
this one covers at least 94.9% at 3, 5 and 10 seeds wherever it was tried.

Scores of 0 and 1 that differ on a handful of examples, or on none, hide how far another test set could move
the mean: of 100 examples none shows a change of 1 in 100 with probability .37. So `UNSEEN` examples that
differ, half of them each way, are added to the noise (to the mean they add nothing), as Agresti and Coull
add them to a share. They are taken to differ as consistently over the runs as those k that do differ,
together with one that always does: UNSEEN (1 + N^2 C / SN) / (1 + k) / N^2. Where few differ, always, that
is UNSEEN / N^2, and intervals cover 95% instead of 45% and more; where more runs show many examples that
differ now and then, it is next to nothing. TOST asks what would be seen if the true difference were the
margin, and then at least margin / step of the examples differ (a score test, as Tango 1998 for paired
shares, with half an example as correction for continuity): it errs in at most 5% where counting only what
did differ erred in up to 55%.
"""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from experiments.protocol import FEWEST_SEEDS, sign_flip_floor

ALPHA = 0.05
POWER = 0.8
UNSEEN = 4  # examples that are taken to differ beyond those that do
LEAST = -300.0  # the log of the smallest p that is told from zero


def quantile(alpha: float, df: float) -> float:
    """What |t| exceeds with probability `alpha`."""
    return float(-special.stdtrit(df, alpha / 2))


class Noise(NamedTuple):
    """The squared standard error of a mean difference in parts, with their degrees of freedom.

    `tuning` is what the choice of the learning rates leaves open; its quantile is the normal one.
    """

    seeds: float
    seeds_df: float
    examples: float = 0.0
    examples_df: float = 1.0
    tuning: float = 0.0

    @property
    def se(self) -> float:
        """The standard error."""
        return float(np.sqrt(self.seeds + self.examples + self.tuning))

    def half_width(self, alpha: float = 0.05) -> float:
        """Half the width of the interval that misses the mean with probability `alpha`."""
        squares = quantile(alpha, self.seeds_df) ** 2 * self.seeds
        squares += quantile(alpha, self.examples_df) ** 2 * self.examples if self.examples else 0.0
        squares += special.ndtri(alpha / 2) ** 2 * self.tuning if self.tuning else 0.0
        return float(np.sqrt(squares))


def mean_noise(parts: Sequence[Noise]) -> Noise:
    """The noise of the mean of independent differences, with Satterthwaite's degrees of freedom."""
    seeds = np.array([part.seeds for part in parts])
    examples = np.array([part.examples for part in parts])
    df = np.array([(part.seeds_df, part.examples_df) for part in parts])
    total, squares = seeds.sum() + examples.sum(), (seeds**2 / df[:, 0] + examples**2 / df[:, 1]).sum()
    tuning = sum(part.tuning for part in parts) / len(parts) ** 2
    return Noise(
        float(total) / len(parts) ** 2, float(total**2 / squares) if total else df[:, 0].sum(), tuning=tuning
    )


class Difference(NamedTuple):
    """A mean difference with its noise; `n_examples` is 0 where only seeds were counted."""

    mean: float
    noise: Noise
    n_seeds: int
    n_examples: int
    step: float = 0.0  # by how much an example that differs differs; 0 for continuous scores
    shared: float = 0.0  # of the squared differences, what is the same with every seed

    def noise_at(self, mean: float) -> Noise:
        """The noise if `mean` were the true difference, as |mean| / step of the examples differ at least."""
        if not self.step:
            return self.noise
        least = (self.step * abs(mean) - mean**2) / self.n_examples
        least *= self.shared + (1 - self.shared) / self.n_seeds
        return self.noise._replace(examples=max(self.noise.examples, least))

    @property
    def low(self) -> float:
        """The lower end of the 95% interval."""
        return self.mean - self.noise.half_width()

    @property
    def high(self) -> float:
        """The upper end of the 95% interval."""
        return self.mean + self.noise.half_width()

    @property
    def p(self) -> float:
        """Two-sided p of no difference."""
        return p_value(self.mean, self.noise)


def two_way(d: np.ndarray, *, step: float = 0.0) -> Difference:
    """Mean of paired differences d (S seeds, N examples), S >= 2, N >= 2, both seen as samples of many.

    `step` is by how much an example that differs differs: 1 for scores of 0 and 1, 0 for continuous scores.
    """
    S, N = d.shape
    mean, over_examples, over_seeds = d.mean(), d.mean(axis=1), d.mean(axis=0)
    A = N * np.square(over_examples - mean).sum() / (S - 1)
    B = S * np.square(over_seeds - mean).sum() / (N - 1)
    E = np.square(d - over_examples[:, None] - over_seeds[None] + mean).sum() / ((S - 1) * (N - 1))
    C, square = max(B - E, 0.0), np.square(d).mean()
    examples = C / (S * N)
    if step:
        examples += UNSEEN * ((step / N) ** 2 + examples) / (1 + np.count_nonzero(d.any(axis=0)))
    noise = Noise(no_dust(A / (S * N)), S - 1, no_dust(examples), N - 1)
    shared = min(C / (S * square), 1.0) if square > 0 else 1.0
    return Difference(float(mean), noise, S, N, step, float(shared))


def one_way(d: np.ndarray) -> Difference:
    """Mean of paired differences d (S,), with seeds as the only noise: the test set is taken as it is."""
    return Difference(float(d.mean()), Noise(no_dust(d.var(ddof=1) / len(d)), len(d) - 1), len(d), 0)


def no_dust(variance: float) -> float:
    """The variance, with rounding dust taken for the zero that it is."""
    return float(variance) if variance > 1e-30 else 0.0


def p_value(mean: float, noise: Noise) -> float:
    """Two-sided p of a mean of zero: the smallest alpha whose interval around `mean` leaves zero out."""
    if noise.se == 0:
        return 1.0 if mean == 0 else 0.0
    if noise.examples == noise.tuning == 0:
        return float(2 * special.stdtr(noise.seeds_df, -abs(mean) / noise.se))
    excess = lambda log_alpha: noise.half_width(np.exp(log_alpha)) - abs(mean)  # noqa: E731
    if mean == 0:
        return 1.0
    return float(np.exp(optimize.brentq(excess, LEAST, 0.0, xtol=1e-9))) if excess(LEAST) > 0 else 0.0


def equivalence_p(found: Difference, margin: float) -> float:
    """TOST: the p of the hypothesis that the true difference is at least `margin` away from zero."""
    noise, sides = found.noise_at(margin), []
    half = found.step * found.shared / (2 * max(found.n_examples, 1))  # an example, where seeds agree on it
    for distance in (margin + found.mean - half, margin - found.mean - half):
        p = p_value(distance, noise)
        sides.append(p / 2 if distance > 0 else 1 - p / 2)
    return max(sides)


def smallest_detectable(noise: Noise, *, alpha: float = ALPHA) -> float:
    """The smallest true difference that a repetition of this comparison would show with power 0.8."""
    if noise.se == 0:
        return 0.0
    wide = noise.half_width(alpha) / noise.se
    df = noise.seeds_df
    if noise.examples + noise.tuning > 0:
        excess = lambda k: quantile(alpha, k) - wide  # noqa: E731
        lowest = min(noise.seeds_df, noise.examples_df) / 2
        df = 1e6 if excess(1e6) >= 0 else optimize.brentq(excess, lowest, 1e6)
    critical = quantile(alpha, df)
    missed = lambda shift: special.nctdtr(df, shift, critical) - (1 - POWER)  # noqa: E731
    return float(optimize.brentq(missed, 0.0, 2 * critical + 6)) * noise.se  # of a two-sided t test


class Spread(NamedTuple):
    """What to expect of paired differences.

    `sd` is theirs between seeds, `examples` the squared standard error that the choice of `n_examples` test
    examples leaves, which no number of seeds makes smaller.
    """

    sd: float
    examples: float = 0.0
    n_examples: int = 0

    def noise(self, n: int) -> Noise:
        """That of a mean over n seeds."""
        return Noise(self.sd**2 / n, n - 1, self.examples, max(self.n_examples - 1, 1))


def detectable(n: int, spread: Spread, *, alpha: float = ALPHA) -> float:
    """The smallest difference that n paired seeds can show."""
    return smallest_detectable(spread.noise(n), alpha=alpha)


def seeds_needed(effect: float, spread: Spread) -> int | None:
    """The smallest number of paired seeds that shows `effect` with power 0.8; None when 1,000 do not."""
    counts = range(FEWEST_SEEDS, 1001)
    shows = lambda n: detectable(n, spread) <= abs(effect)  # noqa: E731
    return counts[bisect.bisect_left(counts, True, key=shows)] if shows(counts[-1]) else None


def sign_flip(d: np.ndarray, *, rng: np.random.Generator, draws: int = 20_000) -> tuple[float, float]:
    """Exact sign-flip test on the seeds' mean differences d (S,): (p, the lowest p that S seeds can reach).

    All 2^S sign patterns are counted up to S = 16; beyond that `draws` random ones.
    """
    S = len(d)
    if S <= 16:
        signs = 1 - 2 * (np.arange(2**S)[:, None] >> np.arange(S) & 1)
        means = np.abs(signs @ d)
        return float((means >= np.abs(d.sum()) * (1 - 1e-12)).mean()), sign_flip_floor(S)
    plus = rng.integers(0, 2, size=(draws, S), dtype=np.int8) @ d  # the sum of those that keep their sign
    means = np.abs(2 * plus - d.sum())
    return float(((means >= np.abs(d.sum()) * (1 - 1e-12)).sum() + 1) / (draws + 1)), 1 / (draws + 1)


def mcnemar(variant: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Exact McNemar test per seed on 0/1 scores (S, N), (S, N): p (S,). Seeds are never pooled."""
    gained, lost = (variant > baseline).sum(axis=1), (variant < baseline).sum(axis=1)
    p = 2 * special.bdtr(np.minimum(gained, lost), gained + lost, 0.5)
    return np.asarray(np.minimum(p, 1.0))


def t_interval(x: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """Student's interval for the mean of x (n,), n >= 2."""
    half = quantile(1 - level, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return float(x.mean() - half), float(x.mean() + half)


def wilson(k: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for k of n examples: what the choice of test examples alone leaves open."""
    z = -special.ndtri((1 - level) / 2)
    p, denominator = k / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / denominator
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / denominator
    return float(centre - half), float(centre + half)
