"""match=parameters and match=memory: ranks at which every variant costs what the reference costs.

The reference is lora, or the first variant with a rank if lora is not in the sweep. Each r of the command is
the reference's; every other variant gets the rank whose cost comes nearest to the reference's at that r,
the smaller one of two that are as near, so that a cost is never off by more than half a rank step. A variant
whose smallest rank costs more than that, or whose largest costs less, cannot be matched, and that is an
error. Methods without a rank stay as they are.

parameters   trained parameters of the adapter at the start of training; for AdaLoRA those of its initial rank
memory       bytes of the frozen base as stored, and 16 for each trained parameter of the adapter: itself, its
             gradient and AdamW's two averages in float32. A 4-bit base leaves room for a larger rank

A matched cell is an ordinary run at its own r, with the alpha of the reference. `RunSpec.matched` keeps the
reference's r beside it, so that a report knows what to compare; it is no part of the run's identity.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from experiments.errors import UserError
from experiments.sizing.counts import STATE, adapter_roles, base_bytes
from experiments.sizing.skeleton import Skeleton
from experiments.spec import RunSpec
from variants._core import costs

KINDS = ("parameters", "memory")
REFERENCE = "lora"
Skeletons = Callable[[RunSpec], Skeleton | None]


def matched(
    specs: Sequence[RunSpec], kind: str, *, skeletons: Skeletons, among: Sequence[RunSpec] | None = None
) -> tuple[list[RunSpec], list[str]]:
    """The specs with the ranks that match, and what is wrong, a sentence per problem.

    Args:
        specs: Cells of a command.
        kind: One of KINDS.
        skeletons: The skeleton of a spec's model, None if it is not on this machine.
        among: All cells of the command, the reference's among them; None if `specs` are all.
    """
    ranked = [spec for spec in (specs if among is None else among) if spec.r is not None]
    variants = list(dict.fromkeys(spec.variant for spec in ranked))
    if len(variants) < 2:
        given = f"variant={variants[0]} alone" if variants else "no variant that has one"
        return list(specs), [
            f"match={kind} gives several variants ranks of equal cost, but this command has {given}: add a "
            "variant, as variant=lora,dora, or leave match out"
        ]
    reference = REFERENCE if REFERENCE in variants else variants[0]
    solver = _Solver(ranked, kind, reference, skeletons)
    problems: dict[str, None] = {}
    result = []
    for spec in specs:
        try:
            result.append(spec if spec.r is None else solver.solved(spec))
        except UserError as error:
            problems[str(error)] = None
    return result, list(problems)


def cost(spec: RunSpec, r: int, skeleton: Skeleton, kind: str = "parameters") -> float | None:
    """What the adapter of a spec costs at rank r; None where it cannot be counted before it runs.

    Rank 0 is one step below rank 1: what does not depend on the rank (DoRA's magnitudes) stays.
    """
    roles = adapter_roles(spec, skeleton, r)
    if roles is None:
        return None
    size = sum(roles.values())
    return size if kind == "parameters" else base_bytes(spec, skeleton) + (4 + STATE) * size


def nearest_rank(
    spec: RunSpec, budget: float, skeleton: Skeleton, kind: str = "parameters"
) -> tuple[int, int]:
    """The rank whose cost is nearest to a budget, and the largest that fits the layers.

    The first is 0 where even less than rank 1 would be nearer, and above the second where more would be. The
    spec's adapter is one that `cost` can count.
    """
    shapes = skeleton.matches(spec.targets or "", spec.options.get("layers"))
    most, delta = min(min(shape.d_in, shape.d_out) for shape in shapes), spec.axes.get("delta") or "lora"
    limit = costs.largest_rank(delta, most, spec.options)
    at = lambda r: cost(spec, r, skeleton, kind) or 0.0  # noqa: E731
    if at(1) > at(limit):  # a method of which a larger rank trains less
        return min(range(1, limit + 1), key=lambda r: (abs(at(r) - budget), r)), limit
    low, high = 0, limit + 1  # at(low) <= budget < at(high), as far as there are such ranks
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle) <= budget else (low, middle)
    return (low if budget - at(low) <= at(high) - budget else high), limit


class _Solver:
    """Ranks by place of a cell in the sweep; each is worked out once."""

    def __init__(self, specs: Iterable[RunSpec], kind: str, reference: str, skeletons: Skeletons):
        self.kind, self.reference, self._skeletons = kind, reference, skeletons
        self._models: dict[Any, Skeleton] = {}
        self._ranks: dict[Any, int] = {}
        self._references: dict[Any, RunSpec] = {}
        for spec in specs:
            if spec.variant == reference:
                self._references.setdefault(_place(spec), spec)
                self._references.setdefault(_rank_and_model(spec), spec)

    def solved(self, spec: RunSpec) -> RunSpec:
        """The spec at the rank that matches; the reference's own specs stay as they are."""
        if spec.variant == self.reference:
            return spec
        key = (_place(spec), spec.variant, spec.axes, spec.options)
        if key not in self._ranks:
            self._ranks[key] = self._rank(spec)
        return replace(spec, r=self._ranks[key], matched=spec.r)

    def _rank(self, spec: RunSpec) -> int:
        other = self._references.get(_place(spec)) or self._references[_rank_and_model(spec)]
        budget, least = self._cost(other, other.r or 0), self._cost(spec, 1)
        rank, limit = nearest_rank(spec, budget, self._skeleton(spec), self.kind)
        if 1 <= rank <= limit:
            return rank
        if rank < 1:
            edge, needed = f"at least {least:,.0f}", 1
        else:
            edge, needed = f"at most {self._cost(spec, limit):,.0f}", limit
        raise UserError(
            f"match={self.kind}: variant={spec.variant} on targets={_text(spec.targets)} cannot be matched "
            f"with {self.reference} r={other.r} on targets={_text(other.targets)}, which takes {budget:,.0f} "
            f"{_UNITS[self.kind]}: it takes {edge} (r={needed}). {'Raise' if rank < 1 else 'Lower'} r, or "
            "give both the same targets"
        )

    def _cost(self, spec: RunSpec, r: int) -> float:
        """UserError where it cannot be counted."""
        skeleton = self._skeleton(spec)
        found = cost(spec, r, skeleton, self.kind)
        if found is not None:
            return found
        if not skeleton.matches(spec.targets or "", spec.options.get("layers")):
            raise UserError(
                f"match={self.kind}: targets={_text(spec.targets)} match no linear map of "
                f"model={spec.model}, so there is nothing to count. Give a preset (qv, qkv, attention, mlp, "
                "all, experts) or names of its modules"
            )
        if spec.options.get("unfreeze_top"):
            raise UserError(
                f"match={self.kind}: with variant.unfreeze_top blocks learn as a whole beside the "
                "adapters, which no rank makes equal. Leave one of the two out"
            )
        raise UserError(
            f"match={self.kind}: how many parameters delta={spec.axes.get('delta')} of variant="
            f"{spec.variant} trains at a rank is not known before it runs. Take it out of this command and "
            "give it an r"
        )

    def _skeleton(self, spec: RunSpec) -> Skeleton:
        key = spec.model_key()
        if key not in self._models:
            found = self._skeletons(spec)
            if found is None:
                raise UserError(
                    f"match={self.kind} needs the sizes of model={spec.model}, and its safetensors files are "
                    "not on this machine yet. Run one cell first, which fetches them, or give "
                    "model.path=<folder>"
                )
            self._models[key] = found
        return self._models[key]


_UNITS = {"parameters": "parameters", "memory": "bytes"}


def _place(spec: RunSpec) -> tuple[Any, ...]:
    """What a cell shares with the reference's that it is matched with."""
    return spec.r, spec.targets, spec.model_key(), spec.options.get("layers")


def _rank_and_model(spec: RunSpec) -> tuple[Any, ...]:
    """The same where a variant's own targets are not the reference's."""
    return spec.r, spec.model_key()


def _text(targets: object) -> str:
    return targets if isinstance(targets, str) else f"[{','.join(targets)}]"  # type: ignore[arg-type]
