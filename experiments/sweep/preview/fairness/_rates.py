"""Checks on learning rates: what they multiply, where they come from, and which role gets which."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.errors import plural
from experiments.protocol import FEWEST_POINTS
from experiments.sizing.counts import own_rate, rates, scaled_rank
from experiments.spec import RunSpec
from experiments.sweep.preview.fairness._finding import Finding, Known, compares, grouped, listed, several
from variants._core.costs import Rates

_RECIPE = ("steps", "epochs", "batch_size", "schedule", "warmup", "weight_decay", "clip")
_NAMES = {"in": "A", "out": "B", "diag": "between A and B", "head_bias": "head bias"}


def scales(specs: Sequence[RunSpec], known: Known) -> Iterator[Finding]:
    """One learning rate where s r differs: the best one falls by its square root (docs/learning-rates.md)."""
    tried: dict[Any, set[float]] = defaultdict(set)
    shared: dict[float, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for spec in specs:
        if spec.tuned:
            continue
        reach = scaled_rank(spec)
        if reach is not None and spec.r is not None:
            tried[spec.variant, spec.r, reach].add(spec.lr)
            shared[spec.lr][spec.variant][spec.r] = reach
    if all(len(rates) >= FEWEST_POINTS for rates in tried.values()):
        return
    rates: dict[str, list[float]] = defaultdict(list)
    for lr, variants in shared.items():
        if len({round(s, 9) for scales in variants.values() for s in scales.values()}) > 1:
            rates[_by_scale(variants)].append(lr)
    if rates:
        texts = [f"lr={', '.join(f'{lr:g}' for lr in lrs)} for {text}" for text, lrs in rates.items()]
        yield Finding(
            "warning",
            f"One learning rate is used where scale times rank, s r, differs: {several(texts, '; ')}.",
            "the best rate falls by its square root, so these cells are not equally far from theirs",
            "Leave lr out, and each has its own; lr=a,b,c tries several for each.",
        )


def _by_scale(variants: Mapping[str, Mapping[int, float]]) -> str:
    """Variants with the same products together: "rslora s r=32, 45.3, 64 at r=4, 8, 16"."""
    shown = {v: tuple((r, f"{s:.3g}") for r, s in sorted(scales.items())) for v, scales in variants.items()}
    return "; ".join(
        f"{', '.join(names)} s r={', '.join(s for _, s in pairs)} at r={', '.join(str(r) for r, _ in pairs)}"
        for pairs, names in grouped(shown.items()).items()
    )


def one_rate(specs: Sequence[RunSpec], known: Known) -> Iterator[Finding]:
    """A rate given for all variants, where their own rates differ."""
    by_variant: dict[str, set[float]] = defaultdict(set)
    own_rates: dict[str, set[float]] = defaultdict(set)
    for spec in specs:
        if spec.tuned:
            return
        by_variant[spec.variant].add(spec.lr)
        own_rates[spec.variant] |= _own(spec, known)
    shared = set.intersection(*by_variant.values()) if len(by_variant) > 1 else set()
    differ = len({frozenset(found) for found in own_rates.values() if found}) > 1
    if len(by_variant) < 2 or not differ or not 0 < len(shared) < FEWEST_POINTS:
        return
    if any(rates != shared for rates in by_variant.values()):
        return
    own = "; ".join(f"{variant} {listed(found)}" for variant, found in own_rates.items() if found)
    yield Finding(
        "warning",
        f"lr={listed(shared)} is given to {plural(len(by_variant), 'variant')} whose own rates differ "
        f"({own}).",
        "it compares how far each is from its best rate",
        "Leave lr out for each one's own, or tune: hydra/sweeper=fair.",
    )


def _own(spec: RunSpec, known: Known) -> set[float]:
    """What lr=null means to a run; nothing where that is not known."""
    at = known.default_lr.get(spec.variant)
    return set() if at is None else {own_rate(spec, at)}


def recipe(specs: Sequence[RunSpec], known: Known) -> Iterator[Finding]:
    """Default rates that were tuned on something else."""
    base = known.recipe
    if base is None or not compares(specs):
        return
    untuned = [spec for spec in specs if not spec.tuned and spec.lr in _own(spec, known)]
    differing: dict[str, set[object]] = defaultdict(set)
    for spec in {(s.model, s.dataset, s.alpha, s.train): s for s in untuned}.values():
        for name in ("model", "dataset"):
            if getattr(spec, name) != getattr(base, name):
                differing[name].add(getattr(spec, name))
        for name in _RECIPE:
            if getattr(spec.train, name) != getattr(base.train, name):
                differing[f"train.{name}"].add(getattr(spec.train, name))
    if differing:
        shown = "; ".join(f"{key}={listed(values)}" for key, values in differing.items())
        yield Finding(
            "warning",
            f"The variants' default rates were chosen for model={base.model}, dataset={base.dataset}, "
            f"{base.train.steps} steps of {base.train.batch_size}; here {shown}.",
            "the best rate moves with model, batch and length of training, and not equally for all variants",
            "Tune on this recipe: hydra/sweeper=fair.",
        )


def selection(specs: Sequence[RunSpec], known: Known) -> Iterator[Finding]:
    """Rates tried by a plain product: every one of those runs is tested."""
    tried: dict[Any, set[float]] = defaultdict(set)
    for spec in specs:
        if spec.phase == "run":
            tried[spec.cell_key("lr")].add(spec.lr)
    most = max((len(lrs) for lrs in tried.values()), default=0)
    if most > 1 and compares(specs):
        yield Finding(
            "warning",
            f"Up to {most} learning rates are tried per cell, and the runs that choose among them are the "
            "ones that are tested.",
            "the best of several is partly the luckiest",
            "hydra/sweeper=fair tunes on validation with seeds of its own and tests once.",
        )


def roles(specs: Sequence[RunSpec], known: Known) -> Iterator[Finding]:
    """Which role learns at which rate and decays by how much."""
    kinds: dict[str, list[str]] = defaultdict(list)
    first = {spec.variant: spec for spec in reversed(specs)}
    for spec in reversed(first.values()):
        applied, count = rates(spec), known.count(spec)
        if applied is not None and spec.method != "zero":
            shown = applied if count is None else {role: applied[role] for role in count.roles}
            kinds[_by_rate(shown)].append(spec.variant)
    if len(kinds) > 1 or any(spec.train.weight_decay for spec in specs):
        applied_as = [f"{', '.join(dict.fromkeys(variants))}: {text}" for text, variants in kinds.items()]
        applied_as += ["no weight decay"] * (not any(spec.train.weight_decay for spec in specs))
        yield Finding(
            "note",
            f"Rates and decay as applied: {several(applied_as, '; ')}.",
            "a step of AdamW decays by rate times weight decay",
            "What is not the method's own can be set for all: train.head_lr, train.weight_decay.",
        )


def _by_rate(applied: Rates) -> str:
    """Roles of one rate together: "A, B lr 0.01, head lr 0.005"."""
    named = grouped((_NAMES.get(role, role), rate) for role, rate in applied.items())
    return ", ".join(
        f"{', '.join(names)} lr {lr:g}" + (f" decay {decay:g}" if decay else "")
        for (lr, decay), names in named.items()
    )
