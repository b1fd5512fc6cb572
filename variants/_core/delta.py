"""Delta: a trained change of a frozen linear map; and AdaptedLinear, the layer that holds both.

Notation, the same in every file of this folder:

    symbol   shape            meaning
    K        -                runs of the pack; a solo run is a pack of one
    N        -                rows of one run: its examples times their tokens
    W        (d_out, d_in)    the frozen weight, shared by all runs
    x, y     (K, N, d_in), (K, N, d_out)        input, and y = x W^T without bias
    A, B     (K, r, d_in), (K, d_out, r)        factors of the change; s the scale
    W'       (K, d_out, d_in)                   the weight that a delta stands for

Each trained parameter has a role: in, out, diag, magnitude, head, head_bias, weight or bias. Nobody matches
on names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from variants._core.base import Base, wide
from variants._core.lowrank import Block, Factors, Part, low_rank_linear
from variants._core.seeds import generator


@dataclass
class Clock:
    """Where training stands.

    One clock is shared by all layers of a model; the loop sets it before each micro-step.
    """

    step: int = 0
    micro: int = 0


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

    @property
    def name(self) -> str:
        """The layer, and the block where it is one: "h.0.attn.c_attn[q]"."""
        return f"{self.module}[{self.block}]" if self.block else self.module


class Delta(nn.Module):
    """A trained change of a frozen map, for the runs of one stack: W' = g * (W + B diag(c) A).

    A variant of this form gives `factors`, and the rest follows. One of another form sets `low_rank = False`
    and gives `forward` and `weight` itself. Each parameter's first axis is the run, and each run's initial
    values come from its own seed.
    """

    roles: ClassVar[Mapping[str, str]] = {}  # parameter -> role
    defaults: ClassVar[Mapping[str, Any]] = {}  # the options that it reads
    low_rank: ClassVar[bool] = True

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__()
        self.slots, self.clock = tuple(slots), clock
        for slot in slots:
            _check(slot, base)
        scales = torch.tensor([slot.scale for slot in slots], dtype=wide(base.dtype), device=base.device)
        self.register_buffer("scale", scales[:, None, None], persistent=False)
        self.number = slots[0].scale if len({slot.scale for slot in slots}) == 1 else None

    @classmethod
    def initial_rank(cls, r: int, options: Mapping[str, Any]) -> int:
        """The rank that training starts with. Differs from r only where a budget shrinks it."""
        return r

    @classmethod
    def stack_key(cls, slot: Slot) -> tuple:
        """Neighbouring runs whose keys are equal share one stacked delta."""
        return (slot.rank, slot.dropout > 0)

    def option(self, k: int, name: str) -> Any:
        """An option of run k, or the variant's default."""
        return self.slots[k].options.get(name, self.defaults[name])

    def stacked(self, draws: Sequence[Tensor], base: Base) -> nn.Parameter:
        """One trained parameter from each run's own initial values."""
        return nn.Parameter(torch.stack(list(draws)).to(base.device, wide(base.dtype)))

    def factors(self, base: Base) -> Factors:
        """A, B, c and g as they are now."""
        raise NotImplementedError

    def forward(
        self, x: Float[Tensor, "K N d_in"], y: Float[Tensor, "K N d_out"], base: Base
    ) -> Float[Tensor, "K N d_out"]:
        """The adapted product without bias, from y = base.linear(x).

        Dropout acts on the change's input only.
        """
        A, B, c, g = self.factors(base)
        z = torch.baddbmm(y, (c * (A @ self.dropped(x).mT)).mT, B.mT)
        return z if g is None else (g * z).to(z.dtype)

    def weight(self, base: Base) -> Float[Tensor, "K d_out d_in"]:
        """The dense W' of each run: what merging writes, and what tests multiply by."""
        A = next(iter(self.parameters()))
        return self.factors(base).weight(base.weight(A.dtype))

    @property
    def fuses(self) -> bool:
        """Whether the delta is its factors alone, so that a layer may do all its deltas in one operation."""
        return self.low_rank and not (self.training and self.slots[0].dropout)

    @property
    def drops(self) -> bool:
        """Whether dropout is at work."""
        return self.training and self.slots[0].dropout > 0

    def dropped(self, x: Float[Tensor, "K N d_in"]) -> Float[Tensor, "K N d_in"]:
        """Inverted dropout.

        The mask is a function of (seed, layer, step, micro-step): a second pass draws the same.
        """
        if not self.drops:
            return x
        return x * torch.stack([self._mask(slot, x) for slot in self.slots])

    def _mask(self, slot: Slot, x: Tensor) -> Float[Tensor, "N d_in"]:
        source = generator(
            slot.seed, "dropout", slot.module, self.clock.step, self.clock.micro, device=x.device
        )
        keep = 1 - slot.dropout
        return torch.empty_like(x[0]).bernoulli_(keep, generator=source).div_(keep)

    @classmethod
    def refresh(cls, held: Sequence["Held"]) -> None:
        """Work out anew, for all layers at once, what is kept from the parameters (DoRA's norms)."""

    @classmethod
    def expire(cls, held: Sequence["Held"]) -> None:
        """The parameters have changed: what is kept from them must not be used again."""

    @classmethod
    def penalty(cls, held: Sequence["Held"], runs: int) -> Float[Tensor, " runs"] | None:
        """What the method adds to each run's loss, over all its layers."""
        return None


class Held(NamedTuple):
    """A delta in its layer: where it acts, and the base as it sees it."""

    part: Part
    delta: Delta
    base: Base


def _check(slot: Slot, base: Base) -> None:
    if not 1 <= slot.rank <= min(base.d_in, base.d_out):
        raise ValueError(
            f"rank {slot.rank} does not fit {slot.name}, a {base.d_out} x {base.d_in} map: "
            f"1 to {min(base.d_in, base.d_out)} is possible. Choose a smaller r, or other targets."
        )
    if not 0 <= slot.dropout < 1:
        raise ValueError(f"dropout {slot.dropout} at {slot.name} is out of range: 0 <= dropout < 1.")


class AdaptedLinear(nn.Module):
    """A frozen map with the deltas of all runs.

    Its input's first axis is the runs' rows in order, equally many for each.
    """

    def __init__(
        self,
        base: Base,
        bias: Tensor | None,
        *,
        name: str,
        runs: int,
        origin: type[nn.Module] = nn.Linear,
        storage: str = "fp32",
    ) -> None:
        super().__init__()
        self.base, self.name, self.runs, self.origin, self.storage = base, name, runs, origin, storage
        self.bias = bias if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.deltas = nn.ModuleList()
        self.held: list[Held] = []

    def hold(self, runs: slice, block: Block, delta: Delta, base: Base) -> None:
        """Add the delta of some runs; `base` is the layer's own or a `BlockOf` it."""
        whole = block is None and runs == slice(0, self.runs)
        self.deltas.append(delta)
        self.held.append(Held(Part(runs, block, whole), delta, base))

    @property
    def weight(self) -> Tensor:
        """The frozen weight, for models that look at it."""
        return self.base.shown()

    def forward(self, x: Float[Tensor, "rows *mid d_in"]) -> Float[Tensor, "rows *mid d_out"]:
        """Every run's rows through its own W' x + b."""
        held = self.held
        if not held:
            return self.base.linear(x, self.bias)
        if x.shape[0] % self.runs:
            raise ValueError(
                f"{self.name} got an input of {x.shape[0]} rows, no multiple of the pack's {self.runs} runs: "
                "this layer is fed without a batch axis, so its runs must train one at a time."
            )
        if all(h.delta.fuses for h in held):
            parts = [(h.part, h.delta.factors(h.base)) for h in held]
            return low_rank_linear(self.base, self.bias, x, self.runs, parts)
        out = self._one_by_one(x.reshape(self.runs, -1, x.shape[-1])).view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def _one_by_one(self, x: Float[Tensor, "K N d_in"]) -> Float[Tensor, "K N d_out"]:
        """Each delta by its own forward, from the shared base product."""
        y = self.base.linear(x)
        if [h.part.whole for h in self.held] == [True]:
            return self.held[0].delta(x, y, self.base)
        out = y.clone()
        for part, delta, base in self.held:
            part.piece(out).copy_(delta(part.rows(x), part.piece(y), base))
        return out
