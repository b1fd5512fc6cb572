"""Checks on the cells themselves: seeds, layers, training, sizes and ranks."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

from experiments.errors import plural
from experiments.protocol import EQUAL_PARAMETERS, FEWEST_SEEDS, sign_flip_floor
from experiments.sizing.counts import effective_scale
from experiments.sizing.match import REFERENCE
from experiments.spec import RunSpec, Train
from experiments.sweep.preview.fairness._finding import Finding, Known, compares, grouped, listed, several

_FOLLOWS = ("head_lr", "threads")  # of train: the variant's own default, or no matter of the result


def seeds(specs: Sequence[RunSpec], known: Known) -> Iterator[Finding]:
    if not compares(specs):
        return
    cells: dict[Any, set[int]] = defaultdict(set)
    for spec in specs:
        cells[spec.cell_key()].add(spec.seed)
    n = min(len(seeds) for seeds in cells.values())
    if n < FEWEST_SEEDS:
        yield Finding(
            "problem",
            f"{plural(n, 'seed')} per cell: no verdict can be given below {FEWEST_SEEDS}.",
            "chance alone sets runs apart",
            "seed=0,1,2,3,4 gives five of each.",
        )
    elif sign_flip_floor(n) > 0.05:
        yield Finding(
            "note",
            f"With {n} seeds a sign-flip test cannot go below p = {sign_flip_floor(n):g}.",
            "verdicts will lean on the t distribution",
            "From 6 seeds on it can reach .05.",
        )


def targets(specs: Sequence[RunSpec], known: Known) -> Iterator[Finding]:
    """Variants without a common set of targets took their own defaults."""
    chosen: dict[str, set[str]] = defaultdict(set)
    for spec in specs:
        if spec.targets is not None:
            chosen[spec.variant].add(spec.targets_text)
    adapting = grouped((variant, tuple(sorted(targets))) for variant, targets in chosen.items())
    if len(adapting) > 1:
        shown = "; ".join(
            f"{', '.join(names)} {' and '.join(targets)}" for targets, names in adapting.items()
        )
        yield Finding(
            "warning",
            f"Variants adapt different layers, each its own default: {shown}.",
            "which layers learn often matters more than how",
            "targets=... makes them the same.",
        )


def training(specs: Sequence[RunSpec], known: Known) -> Iterator[Finding]:
    trains = {spec.train for spec in specs}
    values = {f.name: {getattr(train, f.name) for train in trains} for f in fields(Train)}
    differing = {key: v for key, v in values.items() if len(v) > 1 and key not in _FOLLOWS}
    if differing:
        shown = "; ".join(f"train.{key} {listed(v)}" for key, v in differing.items())
        yield Finding(
            "warning",
            f"Cells are trained differently ({shown}).",
            "only equal training compares methods",
            "Compare those that agree.",
        )


def budgets(specs: Sequence[RunSpec], known: Known) -> Iterator[Finding]:
    """Adapters of different size that will be compared: those at one rank, or matched with it."""
    places: dict[Any, dict[str, RunSpec]] = defaultdict(dict)
    for spec in specs:
        if spec.r is not None:
            places[spec.model_key(), spec.matched or spec.r].setdefault(spec.variant, spec)
    worst: dict[str, tuple[float, RunSpec, RunSpec]] = {}
    for at_rank in places.values():
        reference = at_rank.get(REFERENCE) or next(iter(at_rank.values()))
        budget = known.count(reference)
        for variant, spec in at_rank.items():
            own = known.count(spec)
            if own is not None and budget is not None and budget.adapter:
                ratio = own.adapter / budget.adapter
                if abs(math.log(ratio)) > abs(math.log(worst[variant][0] if variant in worst else 1.005)):
                    worst[variant] = (ratio, spec, reference)
    for ratio, spec, reference in worst.values():
        yield _budget(ratio, spec, reference, known)


def _budget(ratio: float, spec: RunSpec, reference: RunSpec, known: Known) -> Finding:
    counts = [count.adapter for s in (spec, reference) if (count := known.count(s)) is not None]
    rank = known.rank_for(spec, reference)
    if rank is None:
        remedy = (
            f"No rank of {spec.variant} on these targets comes near: raise r, or give both the same targets."
        )
    elif rank == spec.r:
        remedy = f"No other rank of {spec.variant} comes nearer."
    else:
        nearest = known.count(replace(spec, r=rank))
        left = f" ({nearest.adapter / counts[1] - 1:+.0%})" if nearest is not None else ""
        remedy = f"r={rank} of {spec.variant} comes nearest{left}; match=parameters finds it for all."
    return Finding(
        "warning" if abs(ratio - 1) > EQUAL_PARAMETERS else "note",
        f"{spec.variant} trains {counts[0]:,} adapter parameters at r={spec.r}, {reference.variant} "
        f"{counts[1]:,} at r={reference.r} ({f'{ratio - 1:+.0%}' if ratio < 2 else f'{ratio:.1f} times'}).",
        "a better result may be a larger adapter's",
        remedy,
    )


def single_rank(specs: Sequence[RunSpec], known: Known) -> Iterator[Finding]:
    """A rule of scaling with rank, where there is but one rank."""
    ranks: dict[str, set[tuple[int, float]]] = defaultdict(set)
    for spec in specs:
        if spec.axes.get("scaling") == "alpha_over_sqrt_r" and spec.r is not None and spec.alpha is not None:
            ranks[spec.variant].add((spec.initial_rank or spec.r, spec.alpha))
    for variant, found in ranks.items():
        r, alpha = next(iter(found))
        if len({rank for rank, _ in found}) == 1 and r > 1:
            yield Finding(
                "warning",
                f"{variant} at the single rank {r} is the alpha/r rule at alpha={alpha * math.sqrt(r):.4g} "
                f"instead of {alpha:g}.",
                "it says nothing about scaling with rank",
                "Sweep ranks, r=4,16,64, or take it for a larger alpha.",
            )


def pruning(specs: Sequence[RunSpec], known: Known) -> Iterator[Finding]:
    """Ranks that shrink: which rank counts for what."""
    starts: dict[str, dict[int, str]] = defaultdict(dict)
    for spec in specs:
        start, scale = spec.initial_rank, effective_scale(spec)
        if start is not None and spec.r is not None and start != spec.r and scale is not None:
            starts[spec.variant][spec.r] = f"r={spec.r} starts at {start} (s={scale:.3g})"
    for variant, ranks in starts.items():
        yield Finding(
            "note",
            f"{variant} is scaled and counted by the rank it starts with: "
            f"{several([ranks[r] for r in sorted(ranks)])}.",
            "at equal r it has more parameters in training and a smaller scale than lora",
            "match=parameters brings the starts together, variant.init_r_ratio=1 makes the ranks equal.",
        )
