"""No rank that a layer cannot take, read from the model's config.json alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.errors import UserError
from experiments.spec import RunSpec
from variants._core import costs
from variants._core.names import PRESETS

Dimensions = Callable[[RunSpec], Mapping[str, Any] | None]

_MLP = ("up", "down")


def check_ranks(specs: Sequence[RunSpec], dimensions: Dimensions) -> list[str]:
    """What is wrong with ranks or models, a sentence per problem.

    Args:
        specs: The cells.
        dimensions: Facts on the model of a spec; `linear` among them has the shape of each kind of layer.
    """
    models = {spec.model_key(): spec for spec in specs}
    facts: dict[Any, Mapping[str, Any] | None] = {}
    problems = []
    for model, spec in models.items():
        try:
            facts[model] = dimensions(spec)
        except UserError as error:
            problems.append(str(error))
    asked: dict[tuple[Any, ...], dict[int, RunSpec]] = {}
    limited: dict[tuple[Any, ...], tuple[RunSpec, Mapping[str, Any]]] = {}
    for spec in specs:
        fact, rank = facts.get(spec.model_key()), spec.initial_rank
        if rank is None or spec.r is None or fact is None:
            continue
        limit = _limit(fact, spec.targets)
        if rank > limit:
            key = (spec.model, spec.targets, limit, rank > spec.r and spec.variant)
            asked.setdefault(key, {})[spec.r] = spec
        elif costs.has_limits(spec.axes.get("delta") or "lora"):
            limited[spec.model_key(), spec.variant, spec.targets, rank, repr(spec.options)] = spec, fact
    problems += [said for spec, fact in limited.values() if (said := _refusal(spec, fact))]
    return problems + [_sentence(ranks, limit) for (_, _, limit, _), ranks in asked.items()]


def _adapted(facts: Mapping[str, Any], targets: object) -> dict[str, tuple[int, int]] | None:
    """(d_in, d_out) of each kind of layer that is adapted; None for names of modules and experts."""
    if not isinstance(targets, str) or targets not in PRESETS or targets == "experts":
        return None
    kinds = PRESETS[targets]
    return {
        name: shape for name, shape in facts["linear"].items() if name in (*kinds, *_MLP * ("m" in kinds))
    }


def _limit(facts: Mapping[str, Any], targets: object) -> int:
    """The largest rank that fits; for names of modules and experts, the largest that fits any linear map."""
    shapes = _adapted(facts, targets)
    if shapes is None:
        return max(min(shape) for shape in facts["linear"].values())
    return min(min(shape) for shape in shapes.values())


def _refusal(spec: RunSpec, facts: Mapping[str, Any]) -> str | None:
    """What a delta with limits of its own says of the first kind of layer that it cannot be on."""
    for name, shape in (_adapted(facts, spec.targets) or {}).items():
        where = f"{spec.model}'s {name}"
        said = costs.refusal(spec.axes["delta"], spec.initial_rank or 0, *shape, spec.options, where)
        if said is not None:
            return f"variant={spec.variant}: {said}"
    return None


def _sentence(ranks: Mapping[int, RunSpec], limit: int) -> str:
    spec = next(iter(ranks.values()))
    most = costs.largest_rank(spec.axes.get("delta") or "lora", limit, spec.options)
    first = spec.initial_rank
    start = f" and variant={spec.variant} starts r={spec.r} at rank {first}" if first != spec.r else ""
    targets = spec.targets if isinstance(spec.targets, str) else f"[{','.join(spec.targets or ())}]"
    return (
        f"r={','.join(map(str, ranks))} is too large for targets={targets} of model={spec.model}: a layer "
        f"there has only {limit} dimensions{start}, so r can be at most {most}."
    )
