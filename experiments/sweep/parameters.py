"""What a run trains, stores and decays, counted from its spec and its model's skeleton before it starts.

The closed forms of the methods, by the axes of the spec. A part that is not known here (a delta of your own)
is None everywhere, never a guess; the tests hold the forms against attached models.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from experiments.models import Skeleton
from experiments.spec import RunSpec
from variants._core.names import by_pattern, read_patterns

Roles = dict[str, int]  # role -> trained parameters
Rates = dict[str, tuple[float, float]]  # role -> (learning rate, weight decay)

STATE = 12  # bytes per trained parameter beside itself: gradient and AdamW's two averages, all in float32
_ADAPTERS = {
    "lora": lambda r, d_in, d_out: {"in": r * d_in, "out": r * d_out},
    "dora": lambda r, d_in, d_out: {"in": r * d_in, "out": r * d_out, "magnitude": d_out},
    "adalora": lambda r, d_in, d_out: {"in": r * d_in, "diag": r, "out": r * d_out},
}
_SCALES = {
    "alpha_over_r": lambda alpha, r: alpha / r,
    "alpha_over_sqrt_r": lambda alpha, r: alpha / math.sqrt(r),
}


@dataclass(frozen=True)
class Count:
    """Trained parameters of one run by role, and how many the whole model has beside them."""

    roles: Mapping[str, int]
    model: int  # parameters of backbone and head as loaded
    trains_model: bool = False  # those that are trained are the model's own

    @cached_property
    def head(self) -> int:
        """Trained parameters of the head."""
        return sum(n for role, n in self.roles.items() if role.startswith("head"))

    @cached_property
    def trained(self) -> int:
        """All trained parameters, as `trainable_parameters` in a record."""
        return sum(self.roles.values())

    @property
    def adapter(self) -> int:
        """Those that are not the head's."""
        return self.trained - self.head

    @property
    def total(self) -> int:
        """As `total_parameters` in a record: the model as loaded, and what training adds to it."""
        return self.model + (0 if self.trains_model else self.trained)

    @property
    def share(self) -> float:
        """Trained parameters by all."""
        return self.trained / self.total if self.total else 0.0


def count(spec: RunSpec, skeleton: Skeleton, classes: int) -> Count | None:
    """What a run trains.

    Args:
        spec: The run.
        skeleton: Of its model.
        classes: Of its task; 0 for text generation, which trains no head.

    Returns:
        None where a part of the method is not known here or its targets match nothing.
    """
    weights, biases = skeleton.head(classes) if classes else (0, 0)
    body = skeleton.body(classes)
    model = body + (weights + biases if classes else skeleton.outside)
    head = {"head": weights, "head_bias": biases}
    match spec.method:
        case "full":
            # by dimensions, as training tells matrices from vectors
            matrices = sum(math.prod(shape) for shape in skeleton.shapes.values() if len(shape) > 1)
            own = {"weight": matrices, "bias": body - matrices}
            own["weight"] += 0 if classes else skeleton.outside  # a language model's head of its own
            return Count({**own, **head}, model, trains_model=True)
        case "bitfit":
            return Count({"bias": skeleton.biases, **head}, model)
        case "probe":
            return Count(head, model)
        case "zero":
            return Count({}, model)
        case "adapters":
            roles = adapter_roles(spec, skeleton)
            return None if roles is None else Count({**roles, **head}, model)
        case _:
            return None


def adapter_roles(spec: RunSpec, skeleton: Skeleton) -> Roles | None:
    """Adapter parameters by role at the start of training; None where they cannot be told here."""
    form = _ADAPTERS.get(spec.axes.get("delta") or "lora")
    if form is None or spec.r is None or spec.targets is None or spec.options.get("unfreeze_top"):
        return None  # the last: blocks that learn as a whole are not counted here
    total: Roles = {}
    for rank, d_in, d_out in _ranked(spec, skeleton):
        for role, n in form(rank, d_in, d_out).items():
            total[role] = total.get(role, 0) + n
    return total or None


def _ranked(spec: RunSpec, skeleton: Skeleton) -> Iterator[tuple[int, int, int]]:
    """(rank at the start, d_in, d_out) of every adapted map."""
    assert spec.targets is not None
    assert spec.r is not None
    patterns = read_patterns("rank_pattern", spec.options.get("rank_pattern"))
    for name, d_in, d_out in skeleton.matches(spec.targets, spec.options.get("layers")):
        rank = replace(spec, r=int(by_pattern(patterns, name, spec.r))).initial_rank
        assert rank is not None
        yield rank, d_in, d_out


def base_bytes(spec: RunSpec, skeleton: Skeleton, classes: int = 0) -> int:
    """Stored bytes of what is frozen: the maps as the storage keeps them, all else in float32."""
    storage = spec.axes.get("storage", "fp32")
    weights, biases = skeleton.head(classes) if classes else (skeleton.outside, 0)
    frozen = 0 if spec.method == "full" else skeleton.body(classes)
    frozen += weights + biases if spec.method == "zero" or not classes else 0
    frozen -= skeleton.biases if spec.method == "bitfit" else 0
    if storage == "fp32" or spec.method == "full":
        return 4 * frozen
    stored = sum(_stored(m.d_in * m.d_out, storage, spec.options) for m in skeleton.maps)
    return 4 * (frozen - skeleton.linear) + stored


def _stored(n: int, storage: str, options: Mapping[str, Any]) -> int:
    """Bytes of a matrix of n numbers."""
    if storage == "bf16":
        return 2 * n
    blocks = math.ceil(n / 64)  # one scale each: a float32, or a byte and a share of the scales' own scales
    scales = blocks + 4 * math.ceil(blocks / 256) + 4 if options.get("double_quant", True) else 4 * blocks
    return math.ceil(n / 2) + scales


def effective_scale(spec: RunSpec) -> float | None:
    """The s in s B A at the start of training; None where there is none or its rule is not known here."""
    rank, rule = spec.initial_rank, _SCALES.get(spec.axes.get("scaling") or "")
    if rank is None or spec.alpha is None or rule is None:
        return None
    return rule(spec.alpha, rank)


def rates(spec: RunSpec) -> Rates | None:
    """Learning rate and weight decay of every role, as the optimiser gets them; None for other groupings."""
    lr, decay = spec.lr, spec.train.weight_decay
    head_lr = lr if spec.train.head_lr is None else spec.train.head_lr
    ratio = {"uniform": 1.0, "lora_plus": float(spec.options.get("lr_ratio") or 8.0)}.get(
        spec.axes.get("grouping") or "uniform"
    )
    if ratio is None:
        return None
    return {
        "in": (lr, decay),
        "out": (lr * ratio, decay),
        "diag": (lr, decay),
        "weight": (lr, decay),
        "magnitude": (lr, 0.0),
        "bias": (lr, 0.0),
        "head": (head_lr, decay),
        "head_bias": (head_lr, 0.0),
    }
