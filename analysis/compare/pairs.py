"""Which cells are compared with which: variant against baseline, all else equal, seeds in common.

Two cells are peers when only what defines a variant sets them apart: same data, model, training, targets,
rank and alpha, same stack. A method without a rank or an alpha meets any. A cell whose rank was matched for
equal cost stands at the reference's rank. Over ranks (`r` = "all") a seed contributes its mean over the
ranks, so that a seed counts once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis import stats
from analysis.runs.load import Study
from analysis.runs.predictions import MEANS, Predictions
from analysis.runs.rows import Row, each
from analysis.stats import FEWEST_SEEDS, influence
from experiments.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Pair:
    """One comparison: cells of the variant and of the baseline, rank by rank."""

    variant: list[Row]
    baseline: list[Row]
    over_ranks: bool = False

    @property
    def r(self) -> float | str | None:
        """The rank of the comparison, "all" over ranks, None where neither has one."""
        if self.over_ranks:
            return "all"
        rank = _rank(self.baseline[0])
        return None if pd.isna(rank) else float(rank)

    @property
    def alpha(self) -> float | None:
        """The alpha that all its cells share, if they do."""
        values = {cell["alpha"] for cell in self.baseline}
        value = values.pop() if len(values) == 1 else np.nan
        return None if pd.isna(value) else float(value)


@dataclass
class Paired:
    """What a pair has in common: differences per seed and, where scores allow it, per example.

    Positive is better.
    """

    seeds: list[int]
    by_rank: np.ndarray  # (2, R, S) the metric as recorded, of variant and baseline at each rank
    sign: float  # of "better" in the metric
    ranks: tuple[float, ...] = ()  # those with any seed in common
    runs: tuple[str, ...] = ()  # all that count here, of both sides
    left_out: list[int] = field(default_factory=list)  # seeds in common that lack scores by example
    by_example: np.ndarray | None = None  # (S, N)
    binary: bool = False  # whether every score is 0 or 1
    step: float = 0.0  # by how much an example that differs differs; 0 where scores are continuous
    why_blind: str = ""  # why there are no scores by example
    scores: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)  # per rank: two sides (S, N)

    @property
    def by_seed(self) -> np.ndarray:
        """The differences per seed (S,), a mean over ranks."""
        variant, baseline = self.by_rank.mean(axis=1)
        return np.asarray(self.sign * (variant - baseline))


@dataclass(frozen=True)
class Unmatched:
    """A cell that no cell of the baseline can be compared with."""

    cell: Row
    why: str


def check_baseline(study: Study, cells: pd.DataFrame, baseline: str) -> None:
    """UserError where a baseline was asked for that no run has; plain LoRA, the default, may be absent."""
    names = set(cells["variant"]) | set(cells["series"])
    if baseline != "lora" and baseline not in names:
        known = ", ".join(sorted(set(cells["series"])))
        raise UserError(
            f"no run of the baseline {baseline!r} in {study.folder}.{did_you_mean(baseline, names)} There "
            f"are: {known}."
        )


def pairs(cells: pd.DataFrame, baseline: str) -> tuple[list[Pair], list[Unmatched]]:
    """All comparisons of a study with `baseline` (a variant's or a series' name), and the cells left over."""
    found: list[Pair] = []
    left: list[Unmatched] = []
    final = cells[cells["final"]]
    for _, group in final.groupby(["peer_key", "stack", "split"], sort=False, dropna=False):
        plain = group[group["series"] == baseline]
        plain = plain if len(plain) else group[group["variant"] == baseline]
        others = group.drop(plain.index)
        elsewhere = _elsewhere(final, group, baseline)
        ranks = plain["matched"].fillna(plain["r"])
        doubles = plain[plain.assign(r=ranks).duplicated(["targets", "r", "alpha"], keep=False)]
        if len(doubles):
            names = " / ".join(sorted(set(doubles["series"])))
            left += [
                Unmatched(row, f"more than one baseline fits: {names}. Name one with --baseline")
                for row in each(others)
            ]
            continue
        for _, rows in others.groupby("series", sort=False):
            for targets, sides in _sides(rows, plain):
                here = plain["targets"].isna() if targets is None else plain["targets"] == targets
                matched, rest = _matched(sides, plain[here], elsewhere)
                found += matched
                left += rest
    return found, left


def _sides(rows: pd.DataFrame, plain: pd.DataFrame) -> Iterator[tuple[str | None, pd.DataFrame]]:
    """A series' cells per choice of targets.

    A method without targets meets every choice of the baseline's.
    """
    free = rows[rows["targets"].isna()]
    for targets in sorted(rows["targets"].dropna().unique()):
        yield targets, rows[rows["targets"] == targets]
    if len(free):
        for targets in sorted(plain["targets"].dropna().unique()) or [None]:
            yield targets, free


def _elsewhere(final: pd.DataFrame, group: pd.DataFrame, baseline: str) -> str:
    """On which other split the baseline of a group has its results, if it has them there alone."""
    same = (final["peer_key"] == group["peer_key"].iloc[0]) & (final["stack"] == group["stack"].iloc[0])
    plain = final[same & ((final["series"] == baseline) | (final["variant"] == baseline))]
    splits = set(plain["split"].dropna()) - {group["split"].iloc[0]}
    return str(splits.pop()) if splits and len(splits) == plain["split"].nunique() else ""


def _matched(rows: pd.DataFrame, plain: pd.DataFrame, elsewhere: str) -> tuple[list[Pair], list[Unmatched]]:
    by_place = {(_rank(row), row["alpha"]): row for row in each(plain)}
    singles: list[Pair] = []
    left: list[Unmatched] = []
    for row in each(rows):
        peers = [other for place, other in by_place.items() if _meets(row, *place)]
        singles += [Pair([row], [other]) for other in peers]
        if not peers and not pd.isna(row["r"]):
            left.append(Unmatched(row, _why(row, plain, elsewhere)))
    if len(rows) and rows["r"].isna().all() and not by_place:
        left.append(Unmatched(rows.iloc[0], _OTHER.format(elsewhere) if elsewhere else _ABSENT))
    return singles + _over_ranks(singles), left


def _meets(row: Row, rank: float, alpha: float) -> bool:
    """Whether a cell is compared at this rank and alpha of the baseline."""
    same_alpha = row["alpha"] == alpha or pd.isna(row["alpha"]) or pd.isna(alpha)
    return bool(pd.isna(row["r"]) or (_rank(row) == rank and same_alpha))


_ABSENT = "the baseline was not run in this setting"
_OTHER = "the baseline has results on {} alone, this cell has none there: they are not compared"


def _why(row: Row, plain: pd.DataFrame, elsewhere: str) -> str:
    if plain.empty and elsewhere:
        return _OTHER.format(elsewhere)
    if plain.empty:
        return f"the baseline was not run on targets {row['targets']} in this setting and on this stack"
    ranks = {_rank(other) for other in each(plain)}
    if _rank(row) in ranks:
        return f"the baseline was run at rank {_rank(row):g} with another alpha"
    return f"the baseline was not run at rank {_rank(row):g}"


def _rank(cell: Row) -> float:
    """The rank at which a cell is compared: its own, or the reference's that a sweep matched it with."""
    return float(cell["r"] if pd.isna(cell["matched"]) else cell["matched"])


def _over_ranks(singles: list[Pair]) -> list[Pair]:
    """The comparison over ranks, where at least two ranks can be compared.

    One per alpha where ranks repeat.
    """
    ranks = [pair.r for pair in singles]
    groups = [singles] if len(set(ranks)) == len(ranks) else []
    if not groups:
        groups = [[p for p in singles if p.alpha == a] for a in sorted({p.alpha or 0.0 for p in singles})]
    return [
        Pair([p.variant[0] for p in group], [p.baseline[0] for p in group], True)
        for group in groups
        if len(group) > 1
    ]


def paired(pair: Pair, study: Study) -> Paired:
    """The differences of a pair over the seeds that both sides completed at every rank that has any."""
    both = [
        (v, b)
        for v, b in zip(pair.variant, pair.baseline, strict=True)
        if set(v["by_seed"]) & set(b["by_seed"])
    ]
    runs = [(v["by_seed"], b["by_seed"]) for v, b in both]
    sign = pair.baseline[0]["sign"]
    if not runs:
        return Paired([], np.empty((2, 1, 0)), sign)
    common = sorted(set.intersection(*[set(v) & set(b) for v, b in runs]))
    seeds = _seen(runs, common, study.predictions)
    by_rank = np.array([[[study.scores[side[s]] for s in seeds] for side in sides] for sides in zip(*runs)])  # noqa: B905
    counted = tuple(side[seed] for sides in runs for side in sides for seed in seeds)
    found = Paired(seeds, by_rank, sign, tuple(_rank(b) for _, b in both), counted)
    found.left_out = [seed for seed in common if seed not in seeds]
    sides = [tuple(_examples(side, seeds, study.predictions) for side in run) for run in runs]
    known = [ids for side in sides for _, ids in side]
    if seeds and len(set(known)) == 1 and known[0] is not None:
        found.scores = [(v[0], b[0]) for v, b in sides]
        found.by_example = sign * np.mean([v - b for v, b in found.scores], axis=0)
        found.binary = all(((side == 0) | (side == 1)).all() for two in found.scores for side in two)
        found.step = float(found.binary or pair.baseline[0]["metric"] in influence.METRICS)
    elif seeds:
        found.why_blind = _why_blind(pair.baseline[0], known)
    return found


def difference(cell: Row, other: Row, study: Study) -> stats.Difference | None:
    """How far one cell is ahead of another; None with too few common seeds, or without scores by example."""
    common = paired(Pair([cell], [other]), study)
    if len(common.seeds) < FEWEST_SEEDS or common.by_example is None:
        return None
    return stats.two_way(common.by_example, step=common.step)


def _why_blind(cell: Row, known: Sequence[str | None]) -> str:
    """Why a pair has no scores by example that could tell the noise of the examples, and what would help."""
    if cell["split"] == "validation":
        return (
            "these are results on validation alone, of which runs keep no scores by example; run the "
            "compared cells so that they are tested"
        )
    if None not in known:
        return "the runs were scored on different test examples; give all of them the same test set"
    if cell["metric"] not in (*MEANS, *influence.METRICS, "loss"):
        return (
            f"{cell['metric']} has no scores by example whose mean it is; take a primary metric that has "
            "them, as accuracy does, or write its parts as score"
        )
    return "the runs left no usable scores by example; see what was left out, or run them again"


def _seen(
    runs: Sequence[tuple[dict[int, str], dict[int, str]]], seeds: list[int], predictions: Predictions
) -> list[int]:
    """The seeds whose runs all have scores by example, where they suffice for a verdict; else all of them."""
    seen = [s for s in seeds if all(predictions.of(side[s]) for sides in runs for side in sides)]
    return seen if len(seen) >= FEWEST_SEEDS else seeds


def _examples(
    side: dict[int, str], seeds: list[int], predictions: Predictions
) -> tuple[np.ndarray, str | None]:
    """The scores (S, N) of one side and the hash of its examples.

    The hash is None where any run has none to offer.
    """
    found = [predictions.of(side[seed]) for seed in seeds]
    known = [scores for scores in found if scores is not None]
    if not known or len(known) < len(found) or len({scores.ids for scores in known}) > 1:
        return np.empty((0, 0)), None
    return np.array([scores.values for scores in known]), known[0].ids
