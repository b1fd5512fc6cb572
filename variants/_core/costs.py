"""What a run costs, by the declarations of its parts: scales, rates, ranks, parameters, bytes. Without torch.

A delta declares its parameters' shapes in words ("r d_in") and, where it starts at another rank than r, the
option that says so. Both are read from its source, so that a sweep of 100,000 runs is counted in seconds. A
delta that declares no shapes is counted on the meta device, which loads torch.
"""

import importlib
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from variants._core.registry import declared, get, register

SCALE_LR_RATIO = 0.1
Rates = dict[str, tuple[float, float]]  # role -> (learning rate, weight decay)


@register("scaling", "alpha_over_r")
def alpha_over_r(alpha: float, r: int) -> float:
    """s = alpha / r."""
    return alpha / r


@register("scaling", "none")
def unscaled(alpha: float, r: int) -> float:
    """s = 1, of methods without an alpha."""
    return 1.0


@register("scaling", "constant")
def constant(alpha: float, r: int) -> float:
    """s = alpha, whatever the rank is."""
    return alpha


@register("grouping", "uniform")
def uniform(run: Any, lr: float, head_lr: float, weight_decay: float) -> Rates:
    """One learning rate for all that is adapted and one for the head. Matrices decay, vectors do not.

    A scale that learns does so at `scale_lr_ratio` times the rate.
    """
    ratio = float(run.options.get("scale_lr_ratio") or SCALE_LR_RATIO)
    return {
        "in": (lr, weight_decay),
        "out": (lr, weight_decay),
        "diag": (lr, weight_decay),
        "weight": (lr, weight_decay),
        "magnitude": (lr, 0.0),
        "scale": (lr * ratio, 0.0),
        "bias": (lr, 0.0),
        "head": (head_lr, weight_decay),
        "head_bias": (head_lr, 0.0),
    }


def starting_rank(r: int, ratio: float) -> int:
    """ceil(ratio * r); 1.1 * 10 is 11."""
    return math.ceil(round(ratio * r, 9))


def initial_rank(delta: str, r: int, options: Mapping[str, Any]) -> int:
    """The rank at which a delta starts training; UnknownPart if there is no such delta."""
    known = _declaration(delta)
    if known is None:
        return int(get("delta", delta).initial_rank(r, options))
    option = known.get("rank_ratio")
    if option is None:
        return r
    value = options.get(option)
    return starting_rank(r, float(known["defaults"][option] if value is None else value))


def has_scale(delta: str) -> bool:
    """Whether s is in a delta's change of W."""
    known = _declaration(delta)
    return bool(get("delta", delta).scaled if known is None else known.get("scaled", True))


def is_tied(delta: str, options: Mapping[str, Any]) -> bool:
    """Whether what a delta trains is one for all maps of a run."""
    known = declared("delta", delta)
    option = get("delta", delta).tied_by if known is None else known.get("tied_by")
    return bool(option and options.get(option))


def trains_both(delta: str) -> bool:
    """Whether a delta's A and B both learn, and are the factors of its change as PEFT knows them."""
    known = _declaration(delta)
    if known is None:
        kind = get("delta", delta)
        known = {"roles": kind.roles, "peft": kind.peft}
    return {"A", "B"} <= set(known["roles"]) & set(known.get("peft", ()))


@cache
def has_limits(delta: str) -> bool:
    """Whether a delta refuses maps that its rank fits."""
    known = declared("delta", delta)
    return bool(get("delta", delta).limits if known is None else known.get("limits"))


def refusal(
    delta: str, rank: int, d_in: int, d_out: int, options: Mapping[str, Any], name: str
) -> str | None:
    """Why a delta cannot be on a map of that shape, in its own words; None if it can."""
    try:
        get("delta", delta).on_meta(rank, d_in, d_out, options, name)
    except ValueError as error:
        return str(error)
    return None


def largest_rank(delta: str, limit: int, options: Mapping[str, Any]) -> int:
    """The largest r at which a delta starts with at most `limit`; 0 if there is none."""
    return next((r for r in range(limit, 0, -1) if initial_rank(delta, r, options) <= limit), 0)


def delta_sizes(
    delta: str, rank: int, d_in: int, d_out: int, options: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """Trained parameters by role of a delta on one map, at the rank at which it starts.

    Raises:
        UnknownPart: There is no such delta.
    """
    known = _declaration(delta)
    if known is None:
        return dict(get("delta", delta).sizes(rank, d_in, d_out, options or {}))
    return sizes(known["roles"], known["shapes"], rank, d_in, d_out)


def method_sizes(method: str, model: Any, options: Mapping[str, Any]) -> dict[str, int] | None:
    """Trained parameters by role of a method whose module says them; None where it does not.

    Args:
        method: Its name.
        model: With its `layout`, the `shapes` of its backbone's parameters, `hidden` and `vocab`.
        options: Of the run.
    """
    module = importlib.import_module(get("method", method).__module__)
    return module.sizes(model, options) if hasattr(module, "sizes") else None


def sizes(
    roles: Mapping[str, str], shapes: Mapping[str, str], rank: int, d_in: int, d_out: int
) -> dict[str, int]:
    """Parameters by role, from shapes in words such as "r d_in"."""
    number, total = {"r": rank, "d_in": d_in, "d_out": d_out}, dict[str, int]()
    for name, role in roles.items():
        total[role] = total.get(role, 0) + math.prod(number[word] for word in shapes[name].split())
    return total


@cache
def _declaration(delta: str) -> Mapping[str, Any] | None:
    """What a delta's class declares, read from its source; None where it has to be loaded to know."""
    found = declared("delta", delta)
    return found if found is not None and {"roles", "shapes"} <= found.keys() else None


@cache
def needs_of_init(init: str) -> str:
    """What an init has to see before the first step: inputs, gradient, dense, or "" for nothing."""
    known = declared("init", init)
    return str(get("init", init).needs if known is None else known.get("needs", ""))


def stored_bytes(storage: str, n: int, options: Mapping[str, Any]) -> int:
    """Bytes of a matrix of n numbers in a storage."""
    if storage in ("fp32", "bf16"):
        return n * (4 if storage == "fp32" else 2)
    blocks = math.ceil(n / 64)  # one scale each: a float32, or a byte and a share of the scales' own scales
    scales = blocks + 4 * math.ceil(blocks / 256) + 4 if options.get("double_quant", True) else 4 * blocks
    return math.ceil(n / 2) + scales
