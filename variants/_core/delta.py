"""Delta: a trained change of a frozen linear map.

Notation, the same in every file of this folder:

    symbol   shape            meaning
    K        -                runs of the pack; a solo run is a pack of one
    N        -                rows of one run: its examples times their tokens
    W        (d_out, d_in)    the frozen weight, shared by all runs
    x, y     (K, N, d_in), (K, N, d_out)        input, and y = x W^T without bias
    A, B     (K, r, d_in), (K, d_out, r)        factors of the change; s the scale
    A0, B0   as A and B                         what A and B were at the start, where that is subtracted
    W'       (K, d_out, d_in)                   the weight that a delta stands for

Each trained parameter has a role: in, out, diag, magnitude, scale, head, head_bias, weight or bias. Nobody
matches on names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from variants._core import costs
from variants._core.base import Base, DenseBase, wide
from variants._core.init import Init, Start
from variants._core.lowrank import Factors, Part
from variants._core.registry import get
from variants._core.run import Slot
from variants._core.seeds import generator


@dataclass
class Clock:
    """What all layers of a model share: where training stands, and tensors that several deltas use.

    The loop sets step and micro-step before each forward pass.
    """

    step: int = 0
    micro: int = 0
    mask: Tensor | None = None  # (rows, length): which tokens of the batch at hand are no padding
    part: tuple[int, int] = (0, 1)  # which of how many equal parts of the rows are at hand
    shared: dict[tuple, nn.Parameter] = field(default_factory=dict)


@dataclass
class PeftAdapter:
    """What one module's adapter is in PEFT's format, of one run: tensors, and the scale in front of B A."""

    tensors: dict[str, Tensor]  # A (r, d_in), B (d_out, r), and m (d_out,) or E (r,) where there is one
    scale: float
    experts: int = 0  # whose factors lie one after another in A, and side by side in B

    @property
    def rank(self) -> int:
        """Rows of A for each expert."""
        return len(self.tensors["A"]) // (self.experts or 1)


class Delta(nn.Module):
    """A trained change of a frozen map, for the runs of one stack: W' = g * (W + B diag(c) A).

    A variant of this form gives `factors`, and the rest follows. One of another form sets `low_rank = False`
    and gives `change`, or `forward` and `weight`. Each parameter's first axis is the run, and each run's
    initial values come from its own seed.

    roles       trained parameter -> role
    shapes      parameter -> its shape without the run axis, in words: "r d_in". Literal, so that a run is
                counted from the source alone; a delta without is counted on the meta device
    frozen      parameter made by `fixed` or `shared` -> "seed" if it is drawn again from the seed, "saved" if
                it is kept in checkpoints and with the result. Neither trained nor counted
    defaults    the options that it reads
    any_init    whether A and B may start anyhow, away from B = 0; a delta that builds on one says it again
    scaled      whether s is in its change of W, so that it can learn
    limits      whether it refuses maps that its rank fits: a command then asks it before anything starts
    tied_by     the option that, if set, makes what is trained one for all maps of a run
    rank_ratio  the option whose multiple of r is the rank at the start; None: r
    peft        own parameter -> tensor of PEFT's format (A, B, m, E); an adapter of these is read as this
                delta, under the options `peft_options`. Empty: see `to_peft`
    """

    roles: ClassVar[Mapping[str, str]] = {}
    shapes: ClassVar[Mapping[str, str]] = {}
    frozen: ClassVar[Mapping[str, str]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}
    any_init: ClassVar[bool] = False
    tied_by: ClassVar[str | None] = None
    rank_ratio: ClassVar[str | None] = None
    peft: ClassVar[Mapping[str, str]] = {}
    peft_options: ClassVar[Mapping[str, Any]] = {}
    low_rank: ClassVar[bool] = True
    scaled: ClassVar[bool] = True
    limits: ClassVar[bool] = False

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__()
        self.slots, self.clock, self.subtracts, self.given = tuple(slots), clock, False, False
        self.spare = False  # whether some rows of A and columns of B may stay zero, see `Init.ranks`
        self.waiting: dict[int, type[Init]] = {}  # runs of the stack whose init has yet to see something
        for slot in slots:
            _check(slot, base)
        scales = torch.tensor([slot.scale for slot in slots], dtype=wide(base.dtype), device=base.device)
        self.scale: Tensor
        self.register_buffer("scale", scales[:, None, None], persistent=False)
        self.number = slots[0].scale if len({slot.scale for slot in slots}) == 1 else None

    def learn_scale(self, shared: nn.Parameter | None = None) -> None:
        """Train s, (K, 1, 1), from where its rule puts it; `shared` is the parameter of other layers too."""
        if shared is not None and not torch.equal(shared.detach(), self.scale.to(shared)):
            raise ValueError(
                f"learn_scale=model trains one s, but {self.slots[0].name} starts at another one than the "
                "layers before it: use learn_scale=layer, or one rank and one alpha for all layers."
            )
        if not self.scaled:
            raise ValueError(
                f"learn_scale trains s, and {type(self).__name__} has none: leave it out, or use delta=lora."
            )
        start = self._buffers.pop("scale")
        self.scale = nn.Parameter(start.clone()) if shared is None else shared
        self.number = None

    def scale_of(self, k: int) -> float:
        """Run k's s as it is now."""
        return float(self.scale[k].detach()) if isinstance(self.scale, nn.Parameter) else self.slots[k].scale

    @classmethod
    def initial_rank(cls, r: int, options: Mapping[str, Any]) -> int:
        """The rank that training starts with. Differs from r only where a budget shrinks it."""
        if cls.rank_ratio is None:
            return r
        value = options.get(cls.rank_ratio)
        return costs.starting_rank(r, float(cls.defaults[cls.rank_ratio] if value is None else value))

    @classmethod
    def sizes(cls, rank: int, d_in: int, d_out: int, options: Mapping[str, Any]) -> Mapping[str, int]:
        """Trained parameters by role on one map, from `shapes` or from a delta made on the meta device."""
        if cls.roles.keys() <= cls.shapes.keys():
            return costs.sizes(cls.roles, cls.shapes, rank, d_in, d_out)
        if rank == 0:  # what does not depend on it, by a straight line through ranks 1 and 2
            one, two = (cls.sizes(r, d_in, d_out, options) for r in (1, 2))
            return {role: max(0, 2 * n - two[role]) for role, n in one.items()}
        made = cls.on_meta(rank, d_in, d_out, options)
        total: dict[str, int] = {}
        for name, role in cls.roles.items():
            total[role] = total.get(role, 0) + getattr(made, name).numel()
        return total

    @classmethod
    def on_meta(cls, rank: int, d_in: int, d_out: int, options: Mapping[str, Any], name: str = "") -> "Delta":
        """One on a map of that shape, without numbers; ValueError where it cannot be."""
        base = DenseBase(torch.empty(d_out, d_in, device="meta"))
        return cls(base, [Slot(name, 0, rank, 1.0, options=options)], clock=Clock())

    @classmethod
    def stack_key(cls, slot: Slot) -> tuple:
        """Neighbouring runs whose keys are equal share one stacked delta."""
        if "init" not in cls.defaults:
            return (slot.rank, slot.dropout > 0)
        init = get("init", slot.options.get("init", cls.defaults["init"]))
        return (slot.rank, slot.dropout > 0, init.subtracts, bool(init.needs))

    def option(self, k: int, name: str) -> Any:
        """An option of run k, or the variant's default."""
        return self.slots[k].options.get(name, self.defaults[name])

    def stacked(self, draws: Sequence[Tensor], base: Base) -> nn.Parameter:
        """One trained parameter from each run's own initial values."""
        return nn.Parameter(torch.stack(list(draws)).to(base.device, wide(base.dtype)))

    def drawn(self, name: str, draw: Callable[[torch.Generator], Tensor], base: Base) -> nn.Parameter:
        """One trained parameter, each run's part drawn from its own stream for `name` on this map."""
        sources = (generator(slot.seed, "init", slot.name, name) for slot in self.slots)
        return self.stacked([draw(source) for source in sources], base)

    def fixed(self, draws: Sequence[Tensor], base: Base) -> nn.Parameter:
        """One tensor of each run that stays as it is; it belongs in `frozen`."""
        return self.stacked(draws, base).requires_grad_(False)

    def shared(self, name: str, draw: Callable[[Slot], Tensor], base: Base, *key: int) -> nn.Parameter:
        """A fixed tensor that all deltas of this kind in a model share where `key`, say its sizes, is equal.

        `draw` gives one run's part and may use the slot's seed, but not its module.
        """
        runs = tuple((slot.seed, slot.rank) for slot in self.slots)
        where = (type(self), name, runs, base.device, wide(base.dtype), *key)
        if where not in self.clock.shared:
            self.clock.shared[where] = self.fixed([draw(slot) for slot in self.slots], base)
        return self.clock.shared[where]

    def begin(self, base: Base) -> None:
        """Make A and B as each run's init has them, and A0 and B0 where the start is subtracted.

        For deltas that name `init` among their defaults.
        """
        starts = []
        for k, slot in enumerate(self.slots):
            init = get("init", self.option(k, "init"))
            init.check(slot, base)
            if init.needs:
                self.waiting[k] = init
            nothing = torch.empty(0)
            empty = Start(torch.zeros(slot.rank, base.d_in), torch.zeros(base.d_out, slot.rank))
            starts.append(empty if init.needs else init.start(slot, base, nothing))
        for name, draws in (("A", [s.A for s in starts]), ("B", [s.B for s in starts])):
            setattr(self, name, (self.fixed if name in self.frozen else self.stacked)(draws, base))
        self.spare = any(slot.rank > (slot.target_rank or slot.rank) for slot in self.slots)
        # `stack_key` sees to it that all of a stack are alike in this
        self.subtracts, self.given = init.subtracts, init.subtracts or bool(init.needs)
        if self.subtracts:
            self.A0 = self.fixed([start.A for start in starts], base)
            self.B0 = self.fixed([start.B for start in starts], base)

    @torch.no_grad()
    def start(self, k: int, base: Base, seen: Tensor, rank: int | None = None) -> None:
        """Give run k the start that waited for what its init has seen by now, cut to a rank."""
        start = self.waiting.pop(k).start(self.slots[k], base, seen)
        if rank is not None:
            start.A[rank:], start.B[:, rank:] = 0.0, 0.0
        for name, tensor in (("A", start.A), ("B", start.B)):
            getattr(self, name)[k].copy_(tensor)
            if self.subtracts:
                getattr(self, f"{name}0")[k].copy_(tensor)

    def rank_of(self, k: int) -> int:
        """The rank that run k has here, as far as it is known."""
        slot = self.slots[k]
        if not self.spare:
            return slot.rank
        return (slot.target_rank or slot.rank) if k in self.waiting else len(self._used(k))

    def _used(self, k: int) -> Tensor:
        return self.A[k].detach().any(dim=1).nonzero()[:, 0]

    def unused(self, k: int, base: Base) -> int:
        """Trained parameters of run k that no gradient reaches."""
        if not self.spare:
            return 0
        slot = self.slots[k]
        there, used = (
            sum(self.sizes(rank, base.d_in, base.d_out, slot.options).values())
            for rank in (slot.rank, self.rank_of(k))
        )
        return there - used

    @property
    def saved(self) -> list[str]:
        """Fixed tensors that checkpoints keep: as `frozen` says, and what a start took from W or data."""
        found = [name for name, how in self.frozen.items() if how == "saved" or (name == "A" and self.given)]
        return found + ["A0", "B0"] * self.subtracts

    def joined(self) -> tuple[Tensor, Tensor]:
        """A and B as one pair of factors with what is subtracted: [A; A0] and [B, -B0], or A and B alone."""
        if not self.subtracts:
            return self.A, self.B
        return torch.cat([self.A, self.A0], 1), torch.cat([self.B, -self.B0], 2)

    def factors(self, base: Base) -> Factors:
        """A, B, c and g as they are now."""
        raise NotImplementedError

    def change(self, base: Base) -> Float[Tensor, "K d_out d_in"]:
        """W' - W as a dense matrix, differentiable: of a delta that is not low-rank."""
        raise NotImplementedError

    def forward(
        self, x: Float[Tensor, "K N d_in"], y: Float[Tensor, "K N d_out"], base: Base
    ) -> Float[Tensor, "K N d_out"]:
        """The adapted product without bias, from y = base.linear(x).

        Dropout acts on the change's input only.
        """
        if not self.low_rank:
            return torch.baddbmm(y, self.dropped(x), self.change(base).to(y.dtype).mT)
        A, B, c, g = self.factors(base)
        z = torch.baddbmm(y, (c * (A @ self.dropped(x).mT)).mT, B.mT)
        return z if g is None else (g * z).to(z.dtype)

    def weight(self, base: Base) -> Float[Tensor, "K d_out d_in"]:
        """The dense W' of each run: what merging writes, and what tests multiply by."""
        W = base.weight(next(iter(self.parameters())).dtype)
        return self.factors(base).weight(W) if self.low_rank else W + self.change(base)

    def to_peft(self, k: int, form: str) -> PeftAdapter | None:
        """Run k's change in a form of PEFT's format, "lora" or "adalora"; None if it has none.

        What has none is kept as plain tensors by name. Where several blocks of one map are adapted, A, B and
        m alone can be joined.
        """
        if form != "lora" or not self.peft:
            return None
        tensors = {key: getattr(self, name).detach()[k] for name, key in self.peft.items()}
        if self.subtracts:
            tensors |= {key: pair.detach()[k] for key, pair in zip("AB", self.joined(), strict=True)}
        if self.spare:
            used = self._used(k)
            tensors |= {"A": tensors["A"][used], "B": tensors["B"][:, used]}
        return PeftAdapter(tensors, self.scale_of(k))

    @property
    def fuses(self) -> bool:
        """Whether the delta is its factors alone, so that a layer may do all its deltas in one operation."""
        return self.low_rank and not (self.training and self.slots[0].dropout)

    @property
    def folds(self) -> bool:
        """Whether the delta is a dense change alone, so that a layer may add it to W before its product."""
        return not self.low_rank and type(self).forward is Delta.forward and not self.drops

    def turned(self, x: Float[Tensor, "K N d_in"]) -> Float[Tensor, "K N d_in"] | None:
        """The x of which W makes what W' makes of the one given; None where there is no such x."""
        return None

    @property
    def drops(self) -> bool:
        """Whether dropout is at work."""
        return self.training and self.slots[0].dropout > 0

    def dropped(self, x: Float[Tensor, "K N d_in"]) -> Float[Tensor, "K N d_in"]:
        """Inverted dropout; a second pass draws the same mask for its seed, layer, step and micro-step."""
        if not self.drops:
            return x
        return x * torch.stack([self._mask(slot, x) for slot in self.slots])

    def _mask(self, slot: Slot, x: Tensor) -> Float[Tensor, "N d_in"]:
        source = generator(
            slot.seed, "dropout", slot.module, self.clock.step, self.clock.micro, device=x.device
        )
        keep, (part, parts) = 1 - slot.dropout, self.clock.part
        mask = x.new_empty(parts * x.shape[1], x.shape[2]).bernoulli_(keep, generator=source).div_(keep)
        return mask.chunk(parts)[part]

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
