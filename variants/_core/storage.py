"""Layers that hold a frozen map in its storage and the deltas of all runs; and how a backbone gets them."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from variants._core.base import Base, StackBase
from variants._core.delta import Delta, Held
from variants._core.lowrank import Block, Part, compute_dtype, low_rank_linear
from variants._core.registry import get
from variants._core.run import RunConfig
from variants._core.targets import backbone_linears, expert_stacks, is_conv1d


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

    def of_run(self, k: int) -> list[tuple[Held, int]]:
        """The deltas of run k, each with the run's index in its stack."""
        return [(h, k - h.part.runs.start) for h in self.held if h.part.runs.start <= k < h.part.runs.stop]

    @property
    def parameter(self) -> str:
        """What the model calls the parameter that the map is."""
        return f"{self.name}.weight"

    def in_layout(self, W: Float[Tensor, "d_out d_in"]) -> Tensor:
        """A matrix as the model keeps the map's."""
        return W.T.contiguous() if self.origin.__name__ == "Conv1D" else W

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
        rows = x.reshape(self.runs, -1, x.shape[-1])
        if held[0].part.whole and (turned := held[0].delta.turned(rows)) is not None:
            return self.base.linear(turned.view_as(x), self.bias)
        if [h.part.whole and h.delta.folds for h in held] == [True] and self._is_wide(x):
            return self._folded(x, held[0].delta.weight(self.base).to(x.dtype))
        out = self._one_by_one(rows).view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def _is_wide(self, x: Tensor) -> bool:
        """Whether products take place in 32 bits at least: a short type would round W' anew."""
        dtype = compute_dtype(x)
        return dtype == x.dtype and dtype.itemsize >= 4 and self.base.compute in (None, dtype)

    def _folded(self, x: Tensor, W: Float[Tensor, "K d_out d_in"]) -> Tensor:
        """One product with W' for each run, in the place of one with W and one with the change."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if self.runs == 1:
            return F.linear(x, W[0], bias)
        rows = x.reshape(self.runs, -1, x.shape[-1])
        out = torch.bmm(rows, W.mT) if bias is None else torch.baddbmm(bias, rows, W.mT)
        return out.view(*x.shape[:-1], -1)

    def _one_by_one(self, x: Float[Tensor, "K N d_in"]) -> Float[Tensor, "K N d_out"]:
        """Each delta by its own forward, from the shared base product."""
        y = self.base.linear(x)
        if [h.part.whole for h in self.held] == [True]:
            return self.held[0].delta(x, y, self.base)
        out = y.clone()
        for part, delta, base in self.held:
            part.piece(out).copy_(delta(part.rows(x), part.piece(y), base))
        return out


class AdaptedStack(AdaptedLinear):
    """The stacked matrices of a model's experts with the deltas of all runs, one delta for each expert."""

    base: StackBase

    @property
    def parameter(self) -> str:
        """The stack itself."""
        return self.name

    def in_layout(self, W: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "E _ _"]:
        """Rows of all experts as the model keeps them."""
        return self.base.stacked(W)

    def forward(self, k: int) -> Float[Tensor, "E _ _"]:
        """W' of run k in the model's own layout. Formed as a whole, as a token may go to any expert."""
        own = self.of_run(k)
        if not own:
            return self.base.stored
        W = self.base.stored.mT if self.base.transposed else self.base.stored
        ranks = {h.delta.slots[i].rank if h.delta.low_rank else None for h, i in own}
        with torch.autocast(W.device.type, enabled=False):
            if len(ranks) > 1 or None in ranks:
                made = torch.stack([h.delta.weight(h.base)[i] for h, i in own]).to(W.dtype)
            else:
                factors = [h.delta.factors(h.base).of_run(i) for h, i in own]
                A, B = torch.cat([f.c * f.A for f in factors]), torch.cat([f.B for f in factors])
                made = torch.baddbmm(W, B.to(W.dtype), A.to(W.dtype))
                if factors[0].g is not None:
                    made = torch.cat([f.g for f in factors]).mT.to(W.dtype) * made
        return made.mT if self.base.transposed else made


class AdaptedExperts(nn.Module):
    """A model's module of experts, some of whose stacks of matrices are adapted.

    Its input's first axis, as that of the experts and weights chosen for each token, is the runs' tokens in
    order, equally many for each.
    """

    def __init__(self, plain: nn.Module, stacks: Mapping[str, AdaptedStack], runs: int) -> None:
        super().__init__()
        self.plain, self.runs, self.names = plain, runs, tuple(stacks)
        for name, stack in stacks.items():
            self.add_module(name, stack)

    def forward(self, *args: Tensor) -> Tensor:
        """Every run's tokens through its own experts, by the model's own code."""
        if args[0].shape[0] % self.runs:
            raise ValueError(
                f"experts got {args[0].shape[0]} tokens, no multiple of the pack's {self.runs} runs: train "
                "one at a time."
            )
        rows = zip(*(arg.chunk(self.runs) for arg in args), strict=True)
        return torch.cat([self._one(k, own) for k, own in enumerate(rows)])

    def _one(self, k: int, args: tuple[Tensor, ...]) -> Tensor:
        """The experts of run k; they find W' where they look for their parameters."""
        for name in self.names:
            self.plain.__dict__[name] = self.get_submodule(name)(k)
        try:
            return self.plain(*args)
        finally:
            for name in self.names:
                del self.plain.__dict__[name]

    def merged(self, weights: Mapping[str, Tensor], memo: dict[int, Any]) -> nn.Module:
        """A copy of the model's own module, with these weights in the place of its adapted ones."""
        plain = copy.deepcopy(self.plain, memo)
        for name, W in weights.items():
            stack = self.get_submodule(name).in_layout(W).detach()
            plain.register_parameter(name, nn.Parameter(stack, requires_grad=False))
        return plain


def loads_stored(run: RunConfig) -> bool:
    """Whether a loader may put the linear maps of the backbone straight into the run's storage.

    Not where they stay as they are, where blocks are trained as a whole, or where A and B start from W as it
    was.
    """
    stays = run.axis("storage") == "fp32" or run.options.get("unfreeze_top")
    return not stays and get("init", run.axis("init")).needs != "dense"


def stored_layer(
    name: str, module: nn.Module, run: RunConfig, *, weight: Tensor | None = None, runs: int = 1
) -> AdaptedLinear:
    """A linear map in the run's storage, without any delta.

    Args:
        name: The map's name in the model.
        module: The map: dense, or a layer that a loader made by this function.
        run: Its storage and the options that the storage reads.
        weight: The dense weight in the module's layout; None: the module's own.
        runs: How many runs will share the layer.

    Raises:
        ValueError: The map is stored already, and otherwise than the run asks.
    """
    storage = run.axis("storage")
    if isinstance(module, AdaptedLinear):
        if module.storage != storage:
            raise ValueError(
                f"{name} was loaded in {module.storage}, and this run asks for {storage}: load the base "
                "again."
            )
        base, origin = module.base, module.origin
    else:
        store: Callable[..., Base] = get("storage", storage)
        dense = module.weight if weight is None else weight
        base, origin = store(dense, transposed=is_conv1d(module), options=run.options), type(module)
    return AdaptedLinear(base, module.bias, name=name, runs=runs, origin=origin, storage=storage)


def store_backbone(
    model: nn.Module,
    runs: Sequence[RunConfig],
    *,
    adapted: Collection[str] = (),
    whole: tuple[str, ...] = (),
    device: torch.device | str | None = None,
) -> dict[str, AdaptedLinear]:
    """Put the linear maps of the backbone into their storage, one at a time.

    At full precision only the adapted ones are touched; those under a prefix of `whole` never are.
    """
    storages = {run.axis("storage") for run in runs}
    if len(storages) != 1:
        raise ValueError(
            f"runs of one pack share one frozen base, so one storage; these ask for {sorted(storages)}."
        )
    everything = storages.pop() != "fp32"
    layers = {}
    for name, module in backbone_linears(model).items():
        if name in adapted or (everything and not name.startswith(whole)):
            dense = device is not None and not isinstance(module, AdaptedLinear)
            weight = module.weight.to(device) if dense else None
            layers[name] = stored_layer(name, module, runs[0], weight=weight, runs=len(runs))
            model.set_submodule(name, layers[name])
    return layers | _stacks(model, adapted, runs=len(runs))


def _stacks(model: nn.Module, adapted: Collection[str], *, runs: int) -> dict[str, AdaptedLinear]:
    """The adapted stacks of experts, which stay as they are in every storage."""
    of_module: dict[str, dict[str, AdaptedStack]] = {}
    for name, (plain, stack) in expert_stacks(model).items():
        if name in adapted:
            base = StackBase(stack, transposed=plain.is_transposed)
            place, _, leaf = name.rpartition(".")
            of_module.setdefault(place, {})[leaf] = AdaptedStack(base, None, name=name, runs=runs)
    for place, stacks in of_module.items():
        plain = copy.copy(model.get_submodule(place))
        plain._parameters = {n: p for n, p in plain._parameters.items() if n not in stacks}
        model.set_submodule(place, AdaptedExperts(plain, stacks, runs))
    return {stack.name: stack for stacks in of_module.values() for stack in stacks.values()}


def dense_size(model: nn.Module) -> int:
    """Parameters of a model, each stored map counted as the dense one that it stands for."""
    maps, rest = _parts(model)
    return sum(base.d_in * base.d_out for base in maps) + sum(p.numel() for p in rest)


def frozen_bytes(model: nn.Module, trained: Collection[nn.Parameter]) -> int:
    """Stored bytes of all that is frozen: quantised and dense maps, embeddings, norms."""
    maps, rest = _parts(model)
    learning = {id(p) for p in trained}
    return sum(base.nbytes for base in maps) + sum(p.nbytes for p in rest if id(p) not in learning)


def bits_per_weight(model: nn.Module) -> float | None:
    """Bits that a weight of the stored maps takes, from the bytes that are stored; None without any."""
    maps, _ = _parts(model)
    weights = sum(base.d_in * base.d_out for base in maps)
    return 8 * sum(base.nbytes for base in maps) / weights if weights else None


def _parts(model: nn.Module) -> tuple[list[Base], list[nn.Parameter]]:
    """The stored maps, and the parameters outside them."""
    maps = [module for module in model.modules() if isinstance(module, Base)]
    inside = {id(p) for base in maps for p in base.parameters()}
    return maps, [p for p in model.parameters() if id(p) not in inside]
