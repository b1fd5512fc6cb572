"""What a run asks for, what a method gives back, and the two doors between them: `attach` and `rates`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from variants._base import Clock, Delta, Held
from variants._layer import AdaptedLinear
from variants._registry import get
from variants._sizes import bits_per_weight, frozen_bytes

Rates = dict[str, tuple[float, float]]  # role -> (learning rate, weight decay)


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
        """The run's value on an axis, or the plain one."""
        return self.axes.get(name) or PLAIN[name]


PLAIN = {
    "delta": "lora",
    "scaling": "alpha_over_r",
    "storage": "fp32",
    "grouping": "uniform",
    "controller": "none",
}


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


@dataclass
class Attached:
    """A model that trains, and everything about it that a loop, a record or an export needs."""

    model: nn.Module
    runs: tuple[RunConfig, ...]
    trained: list[Trained]
    clock: Clock = field(default_factory=Clock)
    layers: dict[str, AdaptedLinear] = field(default_factory=dict)
    heads: dict[str, nn.Module] = field(default_factory=dict)
    coverage: dict[str, list[str]] = field(default_factory=dict)
    controllers: dict[int, Controller] = field(default_factory=dict)
    originals: dict[str, Tensor] = field(default_factory=dict)  # what plain parameters were before training

    def held(self) -> dict[type[Delta], list[Held]]:
        """All deltas of the model, by kind."""
        kinds: dict[type[Delta], list[Held]] = {}
        for layer in self.layers.values():
            for held in layer.held:
                kinds.setdefault(type(held.delta), []).append(held)
        return kinds

    def penalty(self) -> Float[Tensor, " K"]:
        """What to add to each run's loss; zeros where a method adds nothing."""
        total = torch.zeros(len(self.runs), device=self.device)
        for kind, held in self.held().items():
            term = kind.penalty(held, len(self.runs))
            total = total if term is None else total + term
        return total

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def before_step(self) -> None:
        """Call before each optimiser step's first forward pass: deltas bring up to date what they keep."""
        for kind, held in self.held().items():
            kind.refresh(held)

    def after_step(self, step: int, runs: Collection[int] | None = None) -> None:
        """Call after the optimiser's step number `step` (from 0), its gradients still in place.

        `runs` are those that took the step; None: all of the pack.
        """
        for k, controller in self.controllers.items():
            if runs is None or k in runs:
                controller.after_step(step)
        self.after_load()

    def step_log(self, k: int) -> list[dict[str, float]]:
        """Extra columns of run k's history: a row for each step since the last call, or none.

        A loop asks from time to time, as controllers keep their rows until then.
        """
        return self.controllers[k].log() if k in self.controllers else []

    def notes(self, k: int) -> list[str]:
        """What people should know of run k before it starts."""
        return self.controllers[k].notes() if k in self.controllers else []

    def state_dict(self, k: int) -> dict[str, Any]:
        """What run k needs for a resume besides its parameters and the optimiser's state."""
        return self.controllers[k].state_dict() if k in self.controllers else {}

    def load_state_dict(self, k: int, state: Mapping[str, Any]) -> None:
        """Go on from that state, the parameters being loaded already."""
        if k in self.controllers:
            self.controllers[k].load_state_dict(state)
        self.after_load()

    def after_load(self) -> None:
        """Call when parameters were overwritten: nothing kept from the old ones may be used again."""
        for kind, held in self.held().items():
            kind.expire(held)

    def slots(self, k: int) -> dict[str, tuple[Held, int]]:
        """Run k's deltas: name of the layer or block -> (where it is held, its index in that stack)."""
        found = {}
        for layer in self.layers.values():
            for held in layer.held:
                if held.part.runs.start <= k < held.part.runs.stop:
                    index = k - held.part.runs.start
                    found[held.delta.slots[index].name] = (held, index)
        return found

    def summary(self, k: int) -> dict[str, Any]:
        """Facts about run k for its record."""
        slots = {name: held.delta.slots[i] for name, (held, i) in self.slots(k).items()}
        facts: dict[str, Any] = {"matched": list(slots)}
        if slots:
            facts["scale"] = _one_or_all({name: slot.scale for name, slot in slots.items()})
            facts["rank"] = _one_or_all({name: slot.rank for name, slot in slots.items()})
        facts["trainable_parameters"] = self.count(k)
        computes = {
            str(c).removeprefix("torch.") for b in self.model.modules() if (c := getattr(b, "compute", None))
        }
        if computes:
            facts["compute"] = ", ".join(sorted(computes))
        bits = bits_per_weight(self.model)
        if bits is not None:
            facts["bits_per_weight"] = round(bits, 3)
        facts |= self.controllers[k].summary() if k in self.controllers else {}
        return facts

    def tensors(self, k: int) -> dict[str, Tensor]:
        """What run k trains, by the names that it has in a solo run; views without the run axis."""
        found: dict[str, Tensor] = {}
        numbers: dict[str, list[str]] = {}  # layer -> the numbers that this run's deltas have in the pack
        for t in self.trained:
            if not (t.plain or t.runs.start <= k < t.runs.stop):
                continue
            name = t.name
            layer, is_delta, rest = name.rpartition(".deltas.")
            if is_delta:
                number, parameter = rest.split(".", 1)
                own = numbers.setdefault(layer, [])
                if number not in own:
                    own.append(number)
                name = f"{layer}.deltas.{own.index(number)}.{parameter}"
            found[name] = (t.parameter if t.plain else t.parameter[k - t.runs.start]).detach()
        return found

    def count(self, k: int) -> int:
        """Trained parameters of run k."""
        return sum(t.numel() for t in self.tensors(k).values())

    def base_bytes(self) -> int:
        """Stored bytes of all that is frozen."""
        return frozen_bytes(self.model, [t.parameter for t in self.trained])

    def weights(self, k: int) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Module name -> (W, W') of run k, each worked out when it is asked for."""
        from variants._export import Weights

        return Weights(self, k)

    def export_peft(self, k: int, folder: Any, *, form: str = "lora", replace: bool = False) -> None:
        """Write run k's adapter to a folder in the format of PEFT."""
        from variants._peft import write_peft

        write_peft(self, k, folder, form=form, replace=replace)


def _one_or_all(values: dict[str, Any]) -> Any:
    return next(iter(values.values())) if len(set(values.values())) == 1 else values


def attach(
    model: nn.Module,
    runs: Sequence[RunConfig],
    *,
    device: torch.device | str | None = None,
    fresh: Collection[str] | None = None,
) -> Attached:
    """Make a loaded model train as these runs ask, all at once.

    The model is changed in place, its frozen tensors are not.

    Args:
        model: a transformers model, or any module. Its parameters may be shared with other models.
        runs: one entry per run, in the order in which batches hold their rows; alike ones best side by side.
        device: where the model shall be; quantised storages are filled one layer at a time.
        fresh: names of head parameters to draw anew; all of them if None.
    """
    methods = sorted({run.method for run in runs})
    if len(methods) != 1:
        raise ValueError(
            f"a pack holds runs of one method, or none; these are {', '.join(methods) or 'none'}."
        )
    attached = get("method", methods[0])(model, tuple(runs), device=device, fresh=fresh)
    if device is not None:
        attached.model.to(device)
    return attached


def rates(run: RunConfig, lr: float, head_lr: float | None = None, weight_decay: float = 0.0) -> Rates:
    """Learning rate and weight decay of each role, as the run's grouping says. `head_lr` None: as `lr`."""
    grouping = get("grouping", run.axis("grouping"))
    return grouping(run, lr, lr if head_lr is None else head_lr, weight_decay)
