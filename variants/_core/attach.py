"""`attach`: make a model train as runs ask; and Attached, all that a loop, a record or an export needs."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from variants._core.base import wide
from variants._core.delta import Clock, Delta, Held
from variants._core.registry import get
from variants._core.run import PLAIN, Controller, RunConfig, Trained
from variants._core.storage import AdaptedLinear, bits_per_weight, frozen_bytes
from variants._core.targets import backbone_linears


@dataclass(frozen=True, kw_only=True)
class Inserted:
    """What a method puts into a model beside its weights, and how it leaves the model again.

    fold     puts run k's part into the weights of a plain copy; None: it stays a part of every forward pass
    to_peft  PEFT's configuration and tensors of run k; None: PEFT has no such adapter. ValueError where it
             has, but cannot hold this one
    """

    what: str  # "bottleneck adapters"
    positions: int = 0  # of the model's, that it takes from every text
    fold: Callable[[nn.Module, int], None] | None = None
    to_peft: Callable[[int], tuple[dict[str, Any], dict[str, Tensor]]] | None = None


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
    remarks: list[str] = field(default_factory=list)  # what people should know of what is adapted
    inserted: Inserted | None = None  # what a method added that is no change of a map's weight

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

    @torch.no_grad()
    def before_update(self) -> None:
        """Call between clipping and the optimiser: the `gradient` axis of each run rewrites its own in place.

        A pack's rows stay apart: what one run's factors are has no part in another's.
        """
        kinds = [run.axis("gradient") for run in self.runs]
        if set(kinds) == {PLAIN["gradient"]}:
            return
        for layer in self.layers.values():
            for part, delta, _ in layer.held:
                of_part = kinds[part.runs]
                for kind in set(of_part) - {PLAIN["gradient"]}:
                    rows = [i for i, own in enumerate(of_part) if own == kind]
                    A, B = delta.A[rows], delta.B[rows]
                    changed = get("gradient", kind)(
                        A, B, delta.A.grad[rows], delta.B.grad[rows], delta.scale[rows]
                    )
                    delta.A.grad[rows], delta.B.grad[rows] = changed

    def after_step(self, step: int, runs: Collection[int] | None = None) -> None:
        """Call after the optimiser's step number `step` (from 0), its gradients still in place.

        `runs` are those that took the step; None: all of the pack.
        """
        for k, controller in self.controllers.items():
            if runs is None or k in runs:
                controller.after_step(step)
        self.after_load()

    def waiting(self) -> list[tuple[Held, int]]:
        """The runs of deltas whose init has yet to see something, as a place and an index in its stack."""
        return [
            (held, k) for layer in self.layers.values() for held in layer.held for k in held.delta.waiting
        ]

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Forward and backward passes inside show inits what they wait for; at the end A and B start.

        The clock's step counts the batches, each run's own as long as its init wants some.
        """
        sums: dict[tuple[int, int], Tensor] = {}
        layers = [layer for layer in self.layers.values() if any(h.delta.waiting for h in layer.held)]
        with ExitStack() as hooks:
            for layer in layers:
                hooks.enter_context(layer.register_forward_hook(partial(_observe, self.clock, sums)))
            yield
        of_run: dict[int, list[tuple[Held, int, Tensor]]] = {}
        for held, k in self.waiting():
            if (id(held.delta), k) in sums:
                seen = held, k, sums[id(held.delta), k]
                of_run.setdefault(held.part.runs.start + k, []).append(seen)
        for own in of_run.values():
            held, k, _ = own[0]
            ranks = held.delta.waiting[k].ranks([(h.delta.slots[i], seen) for h, i, seen in own])
            for (held, k, found), rank in zip(own, ranks, strict=True):
                held.delta.start(k, held.base, found, rank)
        self.after_load()

    def step_log(self, k: int) -> list[dict[str, float]]:
        """Extra columns of run k's history: a row for each step since the last call, or none.

        A loop asks from time to time, as controllers keep their rows until then.
        """
        return self.controllers[k].log() if k in self.controllers else []

    def notes(self, k: int) -> list[str]:
        """What people should know of run k before it starts."""
        return [*self.remarks, *(self.controllers[k].notes() if k in self.controllers else [])]

    def state_dict(self, k: int) -> dict[str, Any]:
        """What run k needs for a resume besides its parameters and the optimiser's state."""
        state = dict(self.controllers[k].state_dict()) if k in self.controllers else {}
        saved = {name: tensor.clone() for name, tensor in self._saved(k).items()}
        return state | ({"frozen": saved} if saved else {})

    def load_state_dict(self, k: int, state: Mapping[str, Any]) -> None:
        """Go on from that state, the parameters being loaded already."""
        state = dict(state)
        self._put(self._saved(k), state.pop("frozen", {}))
        if k in self.controllers:
            self.controllers[k].load_state_dict(state)
        self.after_load()

    def kept(self, k: int) -> dict[str, Tensor]:
        """What of run k its spec does not give again, by name: trained tensors, and saved frozen ones."""
        return self.tensors(k) | self._saved(k)

    def put_back(self, k: int, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `kept` gave; ValueError where names or shapes are others."""
        self._put(self.kept(k), tensors)
        self.after_load()

    def _saved(self, k: int) -> dict[str, Tensor]:
        """Run k's frozen tensors that are not drawn again from its seed."""
        return {
            f"{place}.{name}": getattr(held.delta, name).detach()[k - held.part.runs.start]
            for place, held in self._own(k).values()
            for name in held.delta.saved
        }

    def _own(self, k: int) -> dict[str, tuple[str, Held]]:
        """Run k's deltas: place in the pack -> (place in a solo run, the delta as it is held)."""
        found: dict[str, tuple[str, Held]] = {}
        for layer, module in self.layers.items():
            own = [(i, h) for i, h in enumerate(module.held) if h.part.runs.start <= k < h.part.runs.stop]
            found |= {f"{layer}.deltas.{i}": (f"{layer}.deltas.{n}", held) for n, (i, held) in enumerate(own)}
        return found

    @torch.no_grad()
    def _put(self, targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        shapes, found = ({n: tuple(t.shape) for n, t in ts.items()} for ts in (targets, tensors))
        if shapes != found:
            odd = sorted(shapes.keys() ^ found.keys()) or ["of other shapes"]
            raise ValueError(f"expected {len(shapes)} tensors, found {len(found)} ({', '.join(odd[:3])})")
        for name, tensor in tensors.items():
            targets[name].copy_(tensor)

    def after_load(self) -> None:
        """Call when parameters were overwritten: nothing kept from the old ones may be used again."""
        for kind, held in self.held().items():
            kind.expire(held)

    def slots(self, k: int) -> dict[str, tuple[Held, int]]:
        """Run k's deltas: name of the layer or block -> (where it is held, its index in that stack)."""
        own = (pair for layer in self.layers.values() for pair in layer.of_run(k))
        return {held.delta.slots[i].name: (held, i) for held, i in own}

    def summary(self, k: int) -> dict[str, Any]:
        """Facts about run k for its record."""
        slots = {name: held.delta.slots[i] for name, (held, i) in self.slots(k).items()}
        facts: dict[str, Any] = {"matched": list(slots)}
        if slots:
            facts["scale"] = _one_or_all({n: h.delta.scale_of(i) for n, (h, i) in self.slots(k).items()})
            facts["rank"] = _one_or_all({n: h.delta.rank_of(i) for n, (h, i) in self.slots(k).items()})
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
        own = self._own(k)
        found: dict[str, Tensor] = {}
        for t in self.trained:
            if t.plain or t.runs.start <= k < t.runs.stop:
                place, _, name = t.name.rpartition(".")
                solo = f"{own[place][0]}.{name}" if place in own else t.name
                found[solo] = (t.parameter if t.plain else t.parameter[k - t.runs.start]).detach()
        return found

    def count(self, k: int) -> int:
        """Trained parameters of run k."""
        unused = sum(held.delta.unused(i, held.base) for held, i in self.slots(k).values())
        return sum(t.numel() for t in self.tensors(k).values()) - unused

    def base_bytes(self) -> int:
        """Stored bytes of all that is frozen."""
        return frozen_bytes(self.model, [t.parameter for t in self.trained])

    def weights(self, k: int) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Module name -> (W, W') of run k, each worked out when it is asked for."""
        return Weights(self, k)


def _one_or_all(values: dict[str, Any]) -> Any:
    return next(iter(values.values())) if len(set(values.values())) == 1 else values


def _observe(clock: Clock, sums: dict[tuple[int, int], Tensor], layer: AdaptedLinear, args: Any, out: Tensor):
    """Hook: when the gradient of the layer's output is there, add what its waiting inits need."""
    x, mask, step = args[0].detach(), clock.mask, clock.step

    def add(dy: Tensor) -> None:
        rows = x.to(wide(x.dtype)).reshape(layer.runs, -1, x.shape[-1])
        part = dy.to(wide(x.dtype)).reshape(layer.runs, -1, dy.shape[-1])
        real = None if mask is None or mask.shape != x.shape[:-1] else mask.bool().view(layer.runs, -1)
        for held in layer.held:
            for k, init in held.delta.waiting.items():
                if step >= init.batches(held.delta.slots[k]):
                    continue
                run = held.part.runs.start + k
                if init.needs == "inputs":
                    tokens = rows[run] if real is None else rows[run][real[run]]
                    one = F.pad(tokens, (0, 1), value=1.0)
                    found = one.mT @ one
                else:
                    of_block = part[run] if held.part.block is None else part[run][:, held.part.block]
                    found = of_block.mT @ rows[run]
                key = (id(held.delta), k)
                sums[key] = found.double() + sums.get(key, 0.0)

    if out.requires_grad:
        out.register_hook(add)


class Weights(Mapping[str, tuple[Tensor, Tensor]]):
    """Module name -> (W, W') of one run, as (d_out, d_in), each pair worked out when it is asked for."""

    def __init__(self, attached: Attached, k: int) -> None:
        self._attached, self._k = attached, k
        linears = backbone_linears(attached.model)
        self._plain = {
            t.name: t.parameter
            for t in attached.trained
            if t.plain and t.name.endswith(".weight") and t.name.removesuffix(".weight") in linears
        }
        adapted = [name for name, layer in attached.layers.items() if layer.of_run(k)]
        self._names = [*adapted, *(name.removesuffix(".weight") for name in self._plain)]

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        """The pair of one map."""
        if name in self._attached.layers:
            layer = self._attached.layers[name]
            return layer.base.weight().detach(), merged_weight(layer, self._k)
        key = f"{name}.weight"
        if key not in self._plain:
            raise KeyError(name)
        before, after = self._attached.originals[key], self._plain[key].detach()
        conv1d = type(self._attached.model.get_submodule(name)).__name__ == "Conv1D"
        return (before.T, after.T) if conv1d else (before, after)

    def __iter__(self) -> Iterator[str]:
        """Names of all changed maps."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)


@torch.no_grad()
def merged_weight(layer: AdaptedLinear, k: int) -> Float[Tensor, "d_out d_in"]:
    """W' of one run, in at least float32, worked out in float64: a merge is no place to lose digits."""
    weight = layer.base.weight(torch.float64).clone()
    for (part, delta, base), i in layer.of_run(k):
        rows = slice(None) if part.block is None else part.block
        if delta.low_rank:
            weight[rows] = delta.factors(base).of_run(i).double().weight(weight[rows])[0]
        else:
            weight[rows] = delta.weight(base)[i].double()
    return weight.to(torch.promote_types(layer.base.dtype, torch.float32))


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
