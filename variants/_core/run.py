"""What a run asks for: its configuration, what of a model it trains, and at which rates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from variants._core.costs import Rates
from variants._core.registry import get


@dataclass(frozen=True)
class RunConfig:
    """One run of a pack.

    `steps` is its number of optimiser steps, which budget schedules are fractions of.
    """

    seed: int
    method: str = "adapters"
    targets: str | tuple[str, ...] | None = "qv"
    r: int | None = 8
    alpha: float | None = 16.0
    dropout: float = 0.0
    axes: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 1

    def axis(self, name: str) -> str:
        """The run's value on an axis, or the plain one; `init` may stand among the options."""
        return self.axes.get(name) or self.options.get(name) or PLAIN[name]


PLAIN = {
    "delta": "lora",
    "init": "kaiming",
    "scaling": "alpha_over_r",
    "storage": "fp32",
    "grouping": "uniform",
    "gradient": "none",
    "controller": "none",
}


@dataclass(frozen=True)
class Slot:
    """What one run asks of one delta: the entry k of its run axis."""

    module: str  # name of the layer in the model
    seed: int
    rank: int  # at the start of training
    scale: float
    dropout: float = 0.0
    target_rank: int | None = None  # on average at its end, where a budget shrinks it
    options: Mapping[str, Any] = field(default_factory=dict)
    block: str = ""  # "q" for the query block of a fused map
    run: int = 0  # of the pack

    @property
    def name(self) -> str:
        """The layer, and the block where it is one: "h.0.attn.c_attn[q]"."""
        return f"{self.module}[{self.block}]" if self.block else self.module


@dataclass
class Trained:
    """A trained parameter.

    Its first axis is the runs in `runs`; a `plain` one has no such axis and belongs to a solo run.
    """

    name: str
    parameter: nn.Parameter
    role: str
    runs: slice
    plain: bool = False


class Controller(Protocol):
    """What acts between the steps of one run. AdaLoRA's budget is one."""

    def after_step(self, step: int) -> None:
        """Called after the optimiser's step `step` (from 0), gradients still in place."""

    def log(self) -> list[dict[str, float]]:
        """Columns for the run's history: a row for each step since the last call, or none."""

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from that state."""

    def summary(self) -> dict[str, Any]:
        """What the record says about it."""

    def notes(self) -> list[str]:
        """What people should know of it before it starts."""


def rates(run: RunConfig, lr: float, head_lr: float | None = None, weight_decay: float = 0.0) -> Rates:
    """Learning rate and weight decay of each role, as the run's grouping says. `head_lr` None: as `lr`."""
    grouping = get("grouping", run.axis("grouping"))
    return grouping(run, lr, lr if head_lr is None else head_lr, weight_decay)
