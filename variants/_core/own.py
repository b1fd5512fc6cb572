"""The model's own parameters, trained: its heads, one copy for each run, and whole blocks or all of it.

What is trained is always a copy: a base that others share stays as it was.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from variants._core.base import wide
from variants._core.run import RunConfig, Trained
from variants._core.seeds import generator, normal
from variants._core.targets import backbone_linears, backbone_of


class PackedLinear(nn.Module):
    """A trained linear map per run: weight (K, d_out, d_in), bias (K, d_out).

    Its input's first axis is the runs' rows in order.
    """

    def __init__(self, weight: Float[Tensor, "K d_out d_in"], bias: Float[Tensor, "K d_out"] | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Float[Tensor, "rows *mid d_in"]) -> Float[Tensor, "rows *mid d_out"]:
        """Every run's rows through its own map."""
        runs, bias = len(self.weight), self.bias
        if runs == 1:
            return F.linear(x, self.weight[0], None if bias is None else bias[0])
        rows = x.reshape(runs, -1, x.shape[-1])
        weight = self.weight.mT
        out = torch.bmm(rows, weight) if bias is None else torch.baddbmm(bias[:, None], rows, weight)
        return out.view(*x.shape[:-1], -1)


def pack_heads(
    model: nn.Module, seeds: Sequence[int], *, fresh: Collection[str] | None
) -> dict[str, PackedLinear]:
    """Replace every linear map of a classification model that is not in the backbone by one copy per run.

    Weights are drawn from N(0, initializer_range^2) by each run's own stream, biases are zero. With `fresh`
    given, only the parameters it names are drawn, and the others keep the checkpoint's values.
    """
    std = getattr(getattr(model, "config", None), "initializer_range", None) or 0.02
    heads = {}
    for name, module in head_linears(model).items():
        dtype = wide(module.weight.dtype)
        weight, bias = module.weight.detach().to(dtype), module.bias
        if fresh is None or f"{name}.weight" in fresh:
            drawn = [normal(tuple(weight.shape), std, generator(seed, "head", name)) for seed in seeds]
            weights = torch.stack(drawn).to(weight.device, dtype)
        else:
            weights = weight.repeat(len(seeds), 1, 1)
        if bias is not None:
            anew = fresh is None or f"{name}.bias" in fresh
            one = torch.zeros_like(bias, dtype=dtype) if anew else bias.detach().to(dtype)
            bias = one.repeat(len(seeds), 1)
        heads[name] = PackedLinear(weights, bias)
        model.set_submodule(name, heads[name])
    return heads


def head_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear maps of a classification model outside its backbone; none for a language model."""
    if "Classification" not in type(model).__name__:
        return {}
    inside = {id(module) for module in backbone_of(model).modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in inside
    }


def freeze(model: nn.Module) -> None:
    """Nothing of the model learns."""
    model.requires_grad_(False)


def head_parameters(heads: Mapping[str, PackedLinear]) -> list[Trained]:
    """The heads' weights and biases, as trained parameters."""
    found = []
    for name, head in heads.items():
        runs = slice(0, len(head.weight))
        found.append(Trained(f"{name}.weight", head.weight, "head", runs))
        if head.bias is not None:
            found.append(Trained(f"{name}.bias", head.bias, "head_bias", runs))
    return found


def inserted(name: str, module: nn.Module, runs: int) -> list[Trained]:
    """The parameters of a module that a method adds to the model, each with the runs in front."""
    return [
        Trained(f"{name}.{leaf}", p, "weight" if p.ndim > 2 else "bias", slice(0, runs))
        for leaf, p in module.named_parameters()
    ]


def check_positions(tokens: int, own: int, what: str, limit: int | None) -> None:
    """Refuse texts that do not fit beside what a method puts in front of them, with a ValueError."""
    if limit is not None and tokens + own > limit:
        raise ValueError(
            f"{tokens} tokens and a {what} of {own} do not fit into the {limit} positions of this model: "
            f"take texts of at most {max(limit - own, 0)} tokens (dataset.max_length), or a smaller "
            "variant.length."
        )


def only_one(runs: Sequence[RunConfig]) -> None:
    """Refuse a pack: such parameters have no run axis."""
    if len(runs) != 1:
        what = "unfreeze_top" if runs[0].method == "adapters" else runs[0].method
        raise ValueError(
            f"{what} trains the model's own parameters, which a pack of {len(runs)} runs would share: "
            "train one at a time."
        )


def unfreeze(
    model: nn.Module, chosen: Callable[[str, nn.Parameter], bool], *, within: nn.Module | None = None
) -> tuple[list[Trained], dict[str, Tensor]]:
    """Train the chosen parameters. Each is replaced by a copy; ties between modules are kept.

    Args:
        model: The model, whose parameters may be shared with others.
        chosen: Whether a parameter is to learn, by its name.
        within: Where it may lie; None: in the backbone.

    Returns:
        The trained parameters, and by name what they were before.
    """
    inside = {id(parameter) for parameter in (within or backbone_of(model)).parameters()}
    copies: dict[int, nn.Parameter] = {}
    trained, originals = [], {}
    for prefix, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{leaf}" if prefix else leaf
            if id(parameter) in inside and id(parameter) not in copies and chosen(name, parameter):
                copies[id(parameter)] = nn.Parameter(parameter.detach().clone())
                role = "weight" if parameter.ndim > 1 else "bias"
                trained.append(Trained(name, copies[id(parameter)], role, slice(0, 1), plain=True))
                originals[name] = parameter.detach()
            if id(parameter) in copies:
                setattr(module, leaf, copies[id(parameter)])
    return trained, originals


def top_blocks(model: nn.Module, count: int) -> tuple[str, ...]:
    """Name prefixes of the last `count` blocks of the backbone, of each of its stacks if it has several."""
    outer = block_stacks(model)
    if count < 1 or any(count > size for size in outer.values()) or not outer:
        raise ValueError(f"unfreeze_top {count}: the model has {min(outer.values(), default=0)} blocks.")
    return tuple(f"{name}.{i}." for name, size in outer.items() for i in range(size - count, size))


def block_stacks(model: nn.Module) -> dict[str, int]:
    """The stacks of blocks of the backbone, by name, with the number of blocks in each."""
    linears = backbone_linears(model)
    stacks = {
        name: len(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(linear.startswith(f"{name}.") for linear in linears)
    }
    return {
        name: size
        for name, size in stacks.items()
        if not any(name.startswith(f"{other}.") for other in stacks)
    }
