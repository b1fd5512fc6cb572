"""Heads: the model's own last linear maps, trained, one copy for each run."""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from variants._base import wide
from variants._seeds import generator, normal
from variants._targets import backbone_of


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
