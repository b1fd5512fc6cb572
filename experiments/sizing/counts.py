"""What a run trains, stores and decays, counted from its spec and its model's skeleton before it starts.

A delta is counted by what its own module declares. What cannot be told is None, never a guess; the tests hold
the counts against attached models.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from experiments.protocol import COMMON
from experiments.sizing.skeleton import Skeleton
from experiments.spec import RunSpec
from variants._core import costs
from variants._core.names import TargetError
from variants._core.registry import UnknownPart, get

Roles = dict[str, int]  # role -> trained parameters

STATE = 12  # bytes per trained parameter beside itself: gradient and AdamW's two averages, all in float32


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
    if classes and skeleton.classifier is None:
        return None
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
            try:
                found = costs.method_sizes(spec.method, skeleton, spec.options)
            except (UnknownPart, TargetError):
                return None
            return None if found is None else Count({**found, **head}, model)


def adapter_roles(spec: RunSpec, skeleton: Skeleton, r: int | None = None) -> Roles | None:
    """Adapter parameters by role at the start of training; None where they cannot be told here.

    Args:
        spec: The run.
        skeleton: Of its model.
        r: In the place of the spec's; 0 gives what does not depend on the rank.
    """
    if spec.r is None or spec.targets is None or spec.options.get("unfreeze_top"):
        return None  # the last: blocks that learn as a whole are not counted here
    delta, total = spec.axes.get("delta") or "lora", Counter[str]()
    try:
        ranked = Counter(_ranked(spec, skeleton, spec.r if r is None else r))
        if spec.options.get("learn_scale"):
            total["scale"] = ranked.total() if spec.options["learn_scale"] == "layer" else 1
        for (rank, d_in, d_out), n in ranked.items():
            for role, size in costs.delta_sizes(delta, rank, d_in, d_out, spec.options).items():
                total[role] += n * size
        if total and costs.is_tied(delta, spec.options):
            d_in, d_out = next((d_in, d_out) for _, d_in, d_out in ranked)
            total |= costs.delta_sizes(delta, spec.r if r is None else r, d_in, d_out, spec.options)
    except (UnknownPart, ValueError):  # the latter: a rank that cannot be shared out among experts
        return None
    return dict(total) or None


def _ranked(spec: RunSpec, skeleton: Skeleton, r: int) -> Iterator[tuple[int, int, int]]:
    """(rank at the start, d_in, d_out) of every adapted map."""
    delta, targets = spec.axes.get("delta") or "lora", spec.targets or ""
    for target in skeleton.matches(targets, spec.options.get("layers")):
        own = int(target.rank(r, spec.options))
        yield costs.initial_rank(delta, own, spec.options), target.d_in, target.d_out


def base_bytes(spec: RunSpec, skeleton: Skeleton, classes: int = 0) -> int:
    """Stored bytes of what is frozen: the maps as the storage keeps them, all else in float32."""
    storage = spec.axes.get("storage", "fp32")
    weights, biases = skeleton.head(classes) if classes else (skeleton.outside, 0)
    frozen = 0 if spec.method == "full" else skeleton.body(classes)
    frozen += weights + biases if spec.method == "zero" or not classes else 0
    frozen -= skeleton.biases if spec.method == "bitfit" else 0
    if storage == "fp32" or spec.method == "full":
        return 4 * frozen
    maps = skeleton.layout.maps.values()
    stored = sum(costs.stored_bytes(storage, d_in * d_out, spec.options) for d_in, d_out in maps)
    return 4 * (frozen - skeleton.linear) + stored


def effective_scale(spec: RunSpec) -> float | None:
    """The s in s B A at the start of training; None where there is none or its rule is not known here."""
    rank, rule = spec.initial_rank, spec.axes.get("scaling")
    if rank is None or not rule:
        return None
    try:
        return float(get("scaling", rule)(1.0 if spec.alpha is None else spec.alpha, rank))
    except UnknownPart:
        return None


def scaled_rank(spec: RunSpec) -> float | None:
    """s r, by whose square root the best learning rate falls; None where there is no s."""
    scale, rank = effective_scale(spec), spec.initial_rank
    return None if spec.alpha is None or scale is None or rank is None else scale * rank


def own_rate(spec: RunSpec, lr: float) -> float:
    """What lr=null means to a run: in proportion to 1 / sqrt(s r), as docs/learning-rates.md found.

    Args:
        spec: The run.
        lr: Of its variant's file: the rate at s r = `COMMON`. What has no alpha has this one rate.
    """
    reach = scaled_rank(spec)
    if reach is None or math.isclose(reach, COMMON):
        return lr
    return float(f"{lr * math.sqrt(COMMON / reach):.3g}")


def rates(spec: RunSpec) -> costs.Rates | None:
    """Learning rate and weight decay of every role, as the optimiser gets them; None for other groupings."""
    lr, decay = spec.lr, spec.train.weight_decay
    head_lr = lr if spec.train.head_lr is None else spec.train.head_lr
    try:
        grouping = get("grouping", spec.axes.get("grouping") or "uniform")
    except UnknownPart:
        return None
    found: costs.Rates = grouping(spec, lr, head_lr, decay)
    return found
