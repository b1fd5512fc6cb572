"""The method of all low-rank variants: freeze the model, give every run its deltas and its head."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from variants._core import costs
from variants._core.attach import Attached
from variants._core.base import BlockOf
from variants._core.delta import Clock, Delta
from variants._core.names import PRESETS, Target, TargetError, by_pattern, check_used, read_patterns
from variants._core.own import freeze, head_parameters, only_one, pack_heads, top_blocks, unfreeze
from variants._core.registry import get, names, register
from variants._core.run import PLAIN, RunConfig, Slot, Trained
from variants._core.storage import AdaptedLinear, store_backbone
from variants._core.targets import (
    backbone_linears,
    backbone_of,
    expert_stacks,
    experts,
    fed_without_batch,
    find,
    is_conv1d,
    unreached,
)


@register("method", "adapters")
def adapters(
    model: nn.Module,
    runs: tuple[RunConfig, ...],
    *,
    device: torch.device | str | None = None,
    fresh: Collection[str] | None = None,
) -> Attached:
    """Deltas on the targets of each run, a head for each run, everything else frozen.

    With the option `unfreeze_top: n` the last n blocks learn as a whole instead of being adapted; such a run
    trains alone.
    """
    freeze(model)
    clock = Clock()
    whole = _unfrozen(model, runs)
    coverage, wanted, remarks = _cover(model, runs, whole)
    _check_batch_axis(model, runs, wanted)
    dense = _dense(model, runs, wanted)
    layers = store_backbone(model, runs, adapted=set(wanted), whole=whole, device=device)
    for name, targets in wanted.items():
        for target, members in targets.items():
            _hold(layers[name], target, members, runs, clock)
    _start_from(dense, layers)
    heads = pack_heads(model, [run.seed for run in runs], fresh=fresh)
    adapted = {name: layers[name] for name in wanted}
    attached = Attached(
        model, runs, [], clock=clock, layers=adapted, heads=heads, coverage=coverage, remarks=remarks
    )
    attached.trained = [*_delta_parameters(adapted), *head_parameters(heads)]
    if whole:
        trained, attached.originals = unfreeze(model, lambda name, _: name.startswith(whole))
        attached.trained += trained
    attached.controllers = _controllers(attached)
    return attached


def _unfrozen(model: nn.Module, runs: Sequence[RunConfig]) -> tuple[str, ...]:
    """Name prefixes of the blocks that learn as a whole."""
    count = next((int(n) for run in runs if (n := run.options.get("unfreeze_top"))), 0)
    if not count:
        return ()
    only_one(runs)
    return top_blocks(model, count)


def _check_batch_axis(model: nn.Module, runs: Sequence[RunConfig], names: Collection[str]) -> None:
    alone = fed_without_batch(model, names) if len(runs) > 1 else []
    if alone:
        raise ValueError(
            f"{alone[0]} is fed without a batch axis (and {len(alone) - 1} more of the targets), so that "
            f"{len(runs)} runs cannot share it: train one at a time, or choose other targets."
        )


# module -> target (the module, or a block of it) -> the runs that adapt it
Wanted = dict[str, dict[Target, list[int]]]


def _cover(
    model: nn.Module, runs: Sequence[RunConfig], whole: tuple[str, ...]
) -> tuple[dict[str, list[str]], Wanted, list[str]]:
    coverage: dict[str, list[str]] = {}
    wanted: Wanted = {}
    remarks: list[str] = []
    never = _unused(model, remarks)
    for k, run in enumerate(runs):
        if run.targets is None or run.r is None:
            raise ValueError("adapters need targets and r.")
        matched = find(model, run.targets, layers=run.options.get("layers"))
        matched = {p: [t for t in found if not t.module.startswith(whole)] for p, found in matched.items()}
        matched, unused = _used(matched, never, remarks)
        coverage |= {pattern: [t.name for t in found] for pattern, found in matched.items()}
        targets = dict.fromkeys(t for found in matched.values() for t in found)
        twice = {t.module for t in targets if t.block} & {t.module for t in targets if not t.block}
        if twice:
            raise TargetError(f"targets {run.targets!r} name {twice.pop()} both as a whole and in blocks.")
        if not targets and unused:
            raise TargetError(
                f"targets {run.targets!r} name only maps that {type(model).__name__} has no use for in its "
                f"forward pass, so that nothing could be learnt there: {', '.join(unused[:3])}."
            )
        if not targets:
            raise ValueError(
                f"unfreeze_top {run.options['unfreeze_top']} leaves none of targets {run.targets!r} to "
                "adapt: take fewer blocks, or other targets."
            )
        for option in ("rank_pattern", "alpha_pattern"):
            patterns = read_patterns(option, run.options.get(option))
            check_used(option, patterns, {target.module for target in targets})
        if run.options.get("expert_rank") and not any(target.active for target in targets):
            raise ValueError(
                f"expert_rank says what r is for experts, and targets {run.targets!r} name none: add "
                "experts, as in targets=[all,experts], or leave it out."
            )
        for target in targets:
            wanted.setdefault(target.module, {}).setdefault(target, []).append(k)
    stacks = experts(model)
    remarks = _of_experts(model, stacks, runs, wanted) + remarks
    order = [name for name in (*(n for n, _ in model.named_modules()), *stacks) if name in wanted]
    return coverage, {name: wanted[name] for name in order}, list(dict.fromkeys(remarks))


def _used(
    matched: Mapping[str, list[Target]], unused: Collection[str], remarks: list[str]
) -> tuple[dict[str, list[Target]], list[str]]:
    """The targets that the model uses, and the names of those that it does not."""
    left = [t.module for found in matched.values() for t in found if t.module in unused]
    if left:
        ends = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in left))
        remarks.append(
            f"{len(set(left))} of the targets are not adapted ({ends}): the model's forward pass does not "
            "call them, or gives them no gradient"
        )
    return {pattern: [t for t in found if t.module not in unused] for pattern, found in matched.items()}, left


def _unused(model: nn.Module, remarks: list[str]) -> frozenset[str]:
    try:
        return unreached(model)
    except RuntimeError as error:
        remarks.append(f"whether the model uses all maps that are adapted could not be tried: {error}")
        return frozenset()


def _of_experts(
    model: nn.Module, stacks: Mapping[str, int], runs: Sequence[RunConfig], wanted: Collection[str]
) -> list[str]:
    """A sentence on stacks of matrices that are no linear maps, where a run seems to reach them."""
    everything = any({"m"} <= set(PRESETS.get(str(run.targets), "")) for run in runs)
    quantised = any(run.axis("storage") != "fp32" for run in runs)
    adapted = any(name in wanted for name in stacks)
    if not stacks or not (quantised or (everything and not adapted)):
        return []
    numbers = sum(stacks.values())
    share = numbers / sum(p.numel() for p in backbone_of(model).parameters())
    ends = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in stacks))
    stored = f" and stay as they are where the storage is {runs[0].axis('storage')}" if quantised else ""
    named = ", which targets=experts names" if expert_stacks(model) else " and no linear maps"
    return [
        f"{numbers:,} parameters, {share:.0%} of the backbone, are stacks of matrices (experts: {ends})"
        f"{named}: they are {'' if adapted else 'not '}adapted{stored}"
    ]


def _hold(
    layer: AdaptedLinear, target: Target, members: list[int], runs: Sequence[RunConfig], clock: Clock
) -> None:
    """Give the layer one stacked delta for each stretch of neighbouring runs that are alike."""
    base = layer.base if target.rows is None else BlockOf(layer.base, target.rows)
    slots = {k: replace(_slot(runs[k], target), run=k) for k in members}
    if target.active:
        _check_experts([runs[k] for k in members])

    def stack_of(k: int) -> tuple:
        kind = runs[k].axis("delta")
        learns = runs[k].options.get("learn_scale")
        own = k if learns == "model" else None  # what all its layers share is one run's
        return kind, get("delta", kind).stack_key(slots[k]), learns, own, k - members.index(k)

    for (kind, *_), stretch in groupby(members, key=stack_of):
        stack = list(stretch)
        delta: Delta = get("delta", kind)(base, [slots[k] for k in stack], clock=clock)
        learns = runs[stack[0]].options.get("learn_scale")
        if learns:
            delta.learn_scale(clock.shared.get(("scale", stack[0])))
        if learns == "model":
            clock.shared["scale", stack[0]] = delta.scale
        layer.hold(slice(stack[0], stack[-1] + 1), target.rows, delta, base)


def _check_experts(runs: Sequence[RunConfig]) -> None:
    for run in runs:
        if run.dropout:
            raise ValueError(
                f"dropout {run.dropout:g} acts on the input of a change of W, and of experts W' itself is "
                "formed: set variant.dropout=0, or leave experts out of targets."
            )
        init = run.axis("init")
        if get("init", init).needs:
            raise ValueError(
                f"init={init} starts from what it sees of a linear map ({get('init', init).needs}), and "
                "experts show none: choose init=kaiming, or pissa, or leave experts out of targets."
            )


def _dense(
    model: nn.Module, runs: Sequence[RunConfig], adapted: Collection[str]
) -> dict[str, tuple[Tensor, bool]]:
    """Where an init needs it: the adapted maps before they go into their storage, and if transposed."""
    if all(get("init", run.axis("init")).needs != "dense" for run in runs):
        return {}
    found = {name: m for name, m in backbone_linears(model).items() if name in adapted}
    return {n: (m.weight, is_conv1d(m)) for n, m in found.items() if not isinstance(m, AdaptedLinear)}


def _start_from(dense: Mapping[str, tuple[Tensor, bool]], layers: Mapping[str, AdaptedLinear]) -> None:
    for name, (weight, transposed) in dense.items():
        W = (weight.mT if transposed else weight).detach()
        for part, delta, base in layers[name].held:
            rows = W if part.block is None else W[part.block]
            for k in [k for k, init in delta.waiting.items() if init.needs == "dense"]:
                delta.start(k, base, rows.to(base.device, torch.float64))


def _takes(delta: type[Delta], init: str) -> bool:
    """Whether the factors of a delta may start so; one that builds on another says itself that all may."""
    plain = not get("init", init).subtracts and get("init", init).needs != "dense"  # then B = 0
    return "init" in delta.defaults and (plain or bool(vars(delta).get("any_init")))


def _slot(run: RunConfig, target: Target) -> Slot:
    delta, init = get("delta", run.axis("delta")), run.axis("init")
    if init != PLAIN["init"] and not _takes(delta, init):
        able = [name for name in names("delta") if _takes(get("delta", name), init)]
        raise ValueError(
            f"init={init} says how A and B start, and delta={run.axis('delta')} cannot start so: choose a "
            f"delta that can ({', '.join(able)}), or init={PLAIN['init']}."
        )
    _check_gradient(run)
    r = target.rank(run.r or 0, run.options)
    alphas = read_patterns("alpha_pattern", run.options.get("alpha_pattern"))
    alpha = by_pattern(alphas, target.module, run.alpha or 1.0)
    if alpha <= 0:
        raise ValueError(f"alpha {alpha:g} must be positive.")
    if r != int(r):
        raise ValueError(f"rank {r:g} of {target.name} must be a whole number.")
    rank = delta.initial_rank(int(r), run.options)
    scale = get("scaling", run.axis("scaling"))(float(alpha), max(rank, 1))
    widest = get("init", init).widest(rank, run.options)
    return Slot(
        module=target.module,
        block=target.block,
        seed=run.seed,
        rank=max(rank, min(widest, target.d_in, target.d_out)),
        target_rank=int(r),
        scale=scale,
        dropout=run.dropout,
        options={**run.options, "init": init},
    )


def _check_gradient(run: RunConfig) -> None:
    kind, delta = run.axis("gradient"), run.axis("delta")
    if kind == PLAIN["gradient"]:
        return
    get("gradient", kind)
    if not costs.trains_both(delta):
        able = ", ".join(filter(costs.trains_both, names("delta")))
        raise ValueError(
            f"gradient={kind} rewrites the gradients of A and B together, and delta={delta} does not train "
            f"both as LoRA does: choose a delta that does ({able}), or gradient=none."
        )
    if get("init", run.axis("init")).widest(8, run.options) > 8:
        raise ValueError(
            f"gradient={kind} inverts the Gram matrices of A and B, and rho={run.options['rho']:g} leaves "
            "some of their rows zero: set variant.rho=1, or gradient=none."
        )


def _delta_parameters(layers: Mapping[str, AdaptedLinear]) -> list[Trained]:
    found: dict[int, Trained] = {}  # by parameter: a learned s may be that of several layers
    for name, layer in layers.items():
        for i, (part, delta, _) in enumerate(layer.held):
            learns = isinstance(delta.scale, torch.nn.Parameter)
            for leaf, role in {**delta.roles, **({"scale": "scale"} if learns else {})}.items():
                own = getattr(delta, leaf)
                found.setdefault(id(own), Trained(f"{name}.deltas.{i}.{leaf}", own, role, part.runs))
    return list(found.values())


def _controllers(attached: Attached) -> dict[int, Any]:
    return {
        k: get("controller", run.axis("controller"))(run, attached.slots(k))
        for k, run in enumerate(attached.runs)
        if run.axis("controller") != "none"
    }
