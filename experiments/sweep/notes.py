"""What to know before comparing the cells of a sweep: what differs that was perhaps not meant to."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from experiments.spec import RunSpec

TUNED = 3  # rates tried for each cell, from which on one can be chosen by validation
_FOLLOWS = ("head_lr", "threads")  # of train: the variant's own default, or no matter of the result


def on_comparing(specs: Sequence[RunSpec]) -> list[str]:
    """Plain sentences, most weighty first; none if the cells differ in nothing that needs saying."""
    return [*_on_scale(specs), *_on_targets(specs), *_on_training(specs)]


def effective_scale(spec: RunSpec) -> float | None:
    """The s in s B A at the start of training; None where there is none or its rule is not known here."""
    rank = spec.initial_rank
    if rank is None or spec.alpha is None:
        return None
    divisors = {"alpha_over_r": float(rank), "alpha_over_sqrt_r": math.sqrt(rank)}
    divisor = divisors.get(spec.axes.get("scaling", ""))
    return None if divisor is None else spec.alpha / divisor


def _on_scale(specs: Sequence[RunSpec]) -> list[str]:
    """One learning rate at several scales compares step sizes along with methods or ranks."""
    rates: dict[tuple[str, int, float], set[float]] = defaultdict(set)
    shared: dict[float, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for spec in specs:
        scale = effective_scale(spec)
        if scale is not None and spec.r is not None:
            rates[spec.variant, spec.r, scale].add(spec.lr)
            shared[spec.lr][spec.variant][spec.r] = scale
    if all(len(tried) >= TUNED for tried in rates.values()):
        return []
    told: dict[str, list[float]] = defaultdict(list)
    for lr, variants in shared.items():
        if len({round(s, 9) for scales in variants.values() for s in scales.values()}) > 1:
            told[_by_scale(variants)].append(lr)
    return [
        f"lr={', '.join(f'{lr:g}' for lr in lrs)} is used at different scales s of the update: {text}. What "
        f"differs between these cells may be the size of their steps: lr=a,b,c tries several rates for each."
        for text, lrs in told.items()
    ]


def _by_scale(variants: dict[str, dict[int, float]]) -> str:
    """Variants with the same scales together: "dora, lora s=4, 2, 1 at r=4, 8, 16"."""
    alike: dict[tuple[tuple[int, str], ...], list[str]] = defaultdict(list)
    for variant, scales in variants.items():
        alike[tuple((r, f"{s:.3g}") for r, s in sorted(scales.items()))].append(variant)
    return "; ".join(
        f"{', '.join(names)} s={', '.join(s for _, s in pairs)} at r={', '.join(str(r) for r, _ in pairs)}"
        for pairs, names in alike.items()
    )


def _on_targets(specs: Sequence[RunSpec]) -> list[str]:
    """Variants without a common set of targets took their own defaults."""
    chosen: dict[str, set[str]] = defaultdict(set)
    for spec in specs:
        if spec.targets is not None:
            chosen[spec.variant].add(
                spec.targets if isinstance(spec.targets, str) else ",".join(spec.targets)
            )
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for variant, targets in chosen.items():
        alike[tuple(sorted(targets))].append(variant)
    if len(alike) < 2:
        return []
    told = "; ".join(f"{', '.join(names)} {' and '.join(targets)}" for targets, names in alike.items())
    return [
        f"Variants adapt different layers, each its own default: {told}. targets=... makes them the same."
    ]


def _on_training(specs: Sequence[RunSpec]) -> list[str]:
    values: dict[str, set[object]] = defaultdict(set)
    for train in {spec.train for spec in specs}:
        for key, value in asdict(train).items():
            values[key].add(value)
    differing = {key: v for key, v in values.items() if len(v) > 1 and key not in _FOLLOWS}
    if not differing:
        return []
    told = "; ".join(f"train.{key} {_listed(v)}" for key, v in differing.items())
    return [f"Cells are trained differently ({told}): compare those that agree."]


def _listed(values: Iterable[object]) -> str:
    return ", ".join("null" if v is None else f"{v}" for v in sorted(values, key=lambda v: (v is None, v)))
