"""One comparison: what the runs of a pair of cells show, with all that the report says of it.

The noise between seeds is taken together with that of comparisons with the same baseline (`pooled`). The p
values are adjusted, and judged, in `verdicts`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis import stats
from analysis.compare import training
from analysis.compare.budgets import Sides
from analysis.compare.pairs import Pair, paired
from analysis.runs import identity
from analysis.runs.cells import Key, key_of
from analysis.runs.load import Study
from analysis.runs.rows import Row

BLIND = "how much of it is the noise of the test examples is not known"
NOTHING_LEARNED = "the runs of both sides give one answer to all examples each: nothing was learned"
COPIES = "runs of {} with different seeds are copies of each other: do the seeds work?"
NO_NOISE = "all seeds differ by exactly the same amount, so that noise is unknown: do the seeds work?"


@dataclass(frozen=True)
class Comparison:
    """A row of the table of comparisons; nan and None stand for what is not known. Positive is better."""

    dataset: str
    model: str
    metric: str  # validation/METRIC where nothing was tested
    targets: str | None
    alpha: float | None
    r: float | str | None  # "all" over ranks
    cell_key: str
    variant: str  # its series
    baseline: str
    key: tuple[str, ...]  # the same for a variant's comparisons over ranks and at each of them
    cells: tuple[tuple[Key, ...], tuple[Key, ...]]  # of variant and baseline, rank by rank
    variant_r: float
    margin: float
    sides: Sides  # the tuning behind the two
    seeds: tuple[int, ...]  # in common
    ranks: tuple[float, ...]  # that have any seed in common
    by_rank: np.ndarray  # (2, R, S) the metric of variant and baseline, by rank and seed
    split: str = "test"
    stack: str = ""  # empty where the setting has one
    head_rates: tuple[float, float] | None = None  # of variant and baseline where they differ
    falling: bool = False  # on either side the validation loss still fell at the end
    failed: int = 0  # or diverged
    failed_baseline: int = 0
    steps: tuple[int, ...] = ()  # how many of the seeds were there each time that some were requested
    rates: tuple[str, str] = ("", "")  # the learning rates of variant and baseline, empty if unknown
    left_out: tuple[int, ...] = ()  # seeds in common that lack scores by example
    sign: float = 1.0  # of "better" in the metric
    learned: bool = True
    found: stats.Difference | None = None  # with its noise
    difference: float = np.nan
    n_examples: int = 0  # 0: their noise is not counted
    se: float = np.nan
    ci_low: float = np.nan
    ci_high: float = np.nan
    p: float = np.nan  # of no difference
    p_tost: float = np.nan  # of a difference of at least the margin
    sd_seeds: float = np.nan
    sign_flip: float = np.nan
    sign_flip_floor: float = np.nan
    mcnemar: tuple[float, ...] = ()  # p by seed
    why: str = ""  # there is no verdict, or no more than an undecided one

    @property
    def n_seeds(self) -> int:
        """How many seeds are paired."""
        return len(self.seeds)

    @property
    def looks(self) -> int:
        """How often these seeds could be looked at, the last time included; 1 if all were requested at once.

        p is multiplied by its square: with looks at 3, 4, ... 10 seeds, equal variants err in .055 instead of
        .17 (a single comparison; with the number itself it would be .076).
        """
        return looks(self.steps)

    def with_noise(self, noise: stats.Noise) -> "Comparison":
        """This comparison with other noise, and all that follows from it."""
        assert self.found is not None
        found = self.found._replace(noise=noise)
        return replace(
            self,
            found=found,
            se=noise.se,
            ci_low=found.low,
            ci_high=found.high,
            p=min(found.p * self.looks**2, 1.0),
            p_tost=min(stats.equivalence_p(found, self.margin) * self.looks**2, 1.0),
        )


def looks(steps: Sequence[int]) -> int:
    """How often a verdict could have been looked for, by the numbers of seeds there were."""
    return max(sum(n >= stats.FEWEST_SEEDS for n in steps), 1)


def compared(pair: Pair, study: Study, margin: float, mixed: set[str], sides: Sides) -> Comparison:
    """One comparison with its evidence, before the adjustment."""
    variant, plain = pair.variant[0], pair.baseline[0]
    common = paired(pair, study)
    n = len(common.seeds)
    keys = [cell["cell_key"] for cell in pair.variant]
    stack = plain["stack"] if plain["peer_key"] in mixed else ""
    key = keys[0] if len(keys) == 1 else identity.joint_key(variant["series"], plain, keys)
    failed, failed_baseline = (
        sum(int(c["failed"] + c["diverged"]) for c in side) for side in (pair.variant, pair.baseline)
    )
    runs = [
        [cell["by_seed"][seed] for cell in side for seed in common.seeds if seed in cell["by_seed"]]
        for side in (pair.variant, pair.baseline)
    ]
    row = Comparison(
        dataset=plain["dataset"],
        model=plain["model"],
        metric=plain["metric"] if plain["split"] != "validation" else f"validation/{plain['metric']}",
        targets=plain["targets"],
        alpha=pair.alpha,
        r=pair.r,
        cell_key=f"{key}@{stack}" if stack else key,
        variant=variant["series"],
        baseline=plain["series"],
        split=plain["split"],
        stack=stack,
        key=(plain["peer_key"], plain["stack"], plain["split"], plain["targets"], variant["series"]),
        cells=(tuple(map(key_of, pair.variant)), tuple(map(key_of, pair.baseline))),
        variant_r=variant["r"],
        margin=margin,
        sides=sides,
        head_rates=_head_rates(pair, study),
        falling=any(training.still_falling(study, side) for side in runs),
        failed=failed,
        failed_baseline=failed_baseline,
        seeds=tuple(common.seeds),
        steps=_steps(study, runs, common.seeds),
        rates=(_rates(pair.variant), _rates(pair.baseline)),
        left_out=tuple(common.left_out),
        ranks=common.ranks,
        by_rank=common.by_rank,
        sign=common.sign,
        learned=not (n and all(map(study.learned_nothing, common.runs))),
        difference=float(common.by_seed.mean()) if n else np.nan,
    )
    if n < stats.FEWEST_SEEDS:
        return replace(row, why=_too_few(row))
    if not row.learned:
        return replace(row, why=NOTHING_LEARNED)
    for name, side in ((row.variant, pair.variant), (row.baseline, pair.baseline)):
        ranks = [[cell["by_seed"][s] for s in common.seeds if s in cell["by_seed"]] for cell in side]
        if any(training.copies(study, rank) for rank in ranks):
            return replace(row, why=COPIES.format(name))
    d = common.by_example
    found = stats.one_way(common.by_seed) if d is None else stats.two_way(d, step=common.step)
    if found.noise.se == 0 and found.mean != 0:
        return replace(row, why=NO_NOISE)
    flip, floor = stats.sign_flip(common.by_seed, rng=np.random.default_rng(0))
    alone = common.scores if len(common.scores) == 1 and common.binary else []
    return replace(
        row,
        found=found,
        difference=found.mean,
        n_examples=found.n_examples,
        sd_seeds=float(common.by_seed.std(ddof=1)),
        sign_flip=flip,
        sign_flip_floor=floor,
        mcnemar=tuple(stats.mcnemar(*alone[0])) if alone else (),
        why=f"{BLIND}, since {common.why_blind}" if d is None else "",
    )


def pooled(rows: Sequence[Comparison]) -> list[Comparison]:
    """Comparisons with their numbers: the noise between seeds taken together where it may be.

    That is where several variants meet the same cells of the baseline at the same ranks with the same seeds.
    """
    out = list(rows)
    groups: dict[object, list[int]] = {}
    for i, row in enumerate(rows):
        if row.found is not None:
            groups.setdefault((row.cells[1], row.split, row.seeds, row.ranks), []).append(i)
    for members in groups.values():
        scores = np.stack([rows[members[0]].by_rank[1], *(rows[i].by_rank[0] for i in members)])
        for i, (seeds, df) in zip(members, stats.moderated(scores), strict=True):
            found = rows[i].found
            assert found is not None
            tuning = rows[i].sides.luck
            noise = found.noise._replace(seeds=stats.no_dust(seeds), seeds_df=df, tuning=tuning)
            out[i] = rows[i].with_noise(noise)
    return out


def _steps(study: Study, sides: Sequence[Sequence[str]], seeds: Sequence[int]) -> tuple[int, ...]:
    """How many of the compared seeds had been requested after each request that added some.

    In a study of an older version, which did not keep the order of requests, smaller seeds came first.
    """
    known = all(request.order is not None for request in study.requests)
    asked: list[tuple[tuple[int, ...], set[int]]] = []
    for request in study.requests:
        own = {
            study.records[run]["spec"]["seed"] for side in sides for run in side if run in request.cells
        } & set(seeds)
        place = (request.order or 0,) if known else (max(own, default=0), len(own))
        asked += [(place, own)] if own else []
    counts, there = [], set[int]()
    for _, more in sorted(asked, key=lambda pair: pair[0]):
        there |= more
        counts.append(len(there))
    return tuple(dict.fromkeys(counts))


def _rates(cells: Sequence[Row]) -> str:
    rates = sorted({cell["lr"] for cell in cells})
    if np.isnan(rates).any():
        return ""
    return " to ".join(f"{rate:g}" for rate in dict.fromkeys((rates[0], rates[-1])))


def _too_few(row: Comparison) -> str:
    """Why so few seeds give no verdict, with the runs that were lost."""
    n = row.n_seeds
    none = "no seed was completed on both sides" + (" at every rank" if row.r == "all" else "")
    seeds = f"{n} paired seed{'s' if n != 1 else ''}" if n else none
    lost = [
        f"{count} run{'s' if count != 1 else ''} of {name} failed or diverged"
        for name, count in ((row.variant, row.failed), (row.baseline, row.failed_baseline))
        if count
    ]
    return "; ".join([seeds, *lost, f"a verdict needs at least {stats.FEWEST_SEEDS}"])


def _head_rates(pair: Pair, study: Study) -> tuple[float, float] | None:
    """The learning rates of the two heads, variant's first, at the first rank at which they differ."""
    for cells in zip(pair.variant, pair.baseline, strict=True):
        specs = [study.records[cell["run_ids"][0]]["spec"] for cell in cells]
        heads = ours, theirs = [(spec.get("train") or {}).get("head_lr") for spec in specs]
        # of a method that trains the head alone, the head's rate is the method's own
        alone = any(
            "r" not in spec and rate == spec.get("lr") for spec, rate in zip(specs, heads, strict=True)
        )
        if ours and theirs and ours != theirs and not alone:
            return ours, theirs
    return None
