"""What training leaves behind as plain weights: a merged model, and the pair (W, W') of every changed map.

Merging is this explicit act and nothing else; `eval()` changes no arithmetic. The trained model is left as it
is.
"""

import copy

import torch
from torch import nn

from variants._core.attach import Attached, merged_weight
from variants._core.base import Base
from variants._core.own import PackedLinear
from variants._core.storage import AdaptedExperts, AdaptedLinear


def merge(attached: Attached, k: int, *, dtype: torch.dtype | None = None) -> nn.Module:
    """The model of one run without any adapter: linear maps that hold W', and its own head.

    Args:
        attached: the trained pack.
        k: which run of it.
        dtype: type of all weights. None: as the base is stored, but bfloat16 where it is quantised.

    Returns:
        A new model. It shares with the old one what is frozen, where the type is the same.

    Raises:
        ValueError: The run put something into the model that no weight can take over.
    """
    inserted = attached.inserted
    if inserted and inserted.fold is None:
        raise ValueError(
            f"{inserted.what} cannot be merged: they are a part of every forward pass and not of any weight. "
            "variant=ia3 and the low-rank variants merge."
        )
    bases = [module for module in attached.model.modules() if isinstance(module, Base)]
    if dtype is None:
        dense = all(hasattr(base, "stored") for base in bases)
        dtype = bases[0].dtype if bases and dense else torch.bfloat16 if bases else None
    memo: dict[int, object] = {id(p): p for p in attached.model.parameters()}
    for module in attached.model.modules():
        if isinstance(module, AdaptedExperts):
            weights = {n: merged_weight(module.get_submodule(n), k) for n in module.names}
            memo[id(module)] = module.merged(weights, memo)
        elif isinstance(module, AdaptedLinear):
            memo[id(module)] = _plain_linear(module, k)
        elif isinstance(module, PackedLinear):
            memo[id(module)] = _plain_head(module, k)
    memo |= {id(t.parameter): nn.Parameter(t.parameter.detach().clone()) for t in attached.trained if t.plain}
    model = copy.deepcopy(attached.model, memo)
    if inserted and inserted.fold:
        inserted.fold(model, k)
    return model if dtype is None else _cast(model, dtype)


def _plain_linear(layer: AdaptedLinear, k: int) -> nn.Module:
    weight = merged_weight(layer, k) if layer.of_run(k) else layer.base.weight()
    if layer.origin.__name__ == "Conv1D":
        plain = layer.origin(layer.base.d_out, layer.base.d_in)
    else:
        plain = nn.Linear(layer.base.d_in, layer.base.d_out, bias=layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(layer.in_layout(weight).detach(), requires_grad=False)
    plain.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)
    return plain


def _plain_head(head: PackedLinear, k: int) -> nn.Linear:
    plain = nn.Linear(head.weight.shape[2], head.weight.shape[1], bias=head.bias is not None, device="meta")
    for name, parameter in head.named_parameters():
        setattr(plain, name, nn.Parameter(parameter[k].detach().clone(), requires_grad=False))
    return plain


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """All floating-point tensors in one type, ties kept, without touching those that another model shares.

    Buffers that no checkpoint holds stay as they are: rotary frequencies lose positions in 16 bits.
    """
    done: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_floating_point() and parameter.dtype != dtype:
                new = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
                setattr(module, name, done.setdefault(id(parameter), new))
        for name, buffer in module.named_buffers(recurse=False):
            saved = name not in module._non_persistent_buffers_set
            if saved and buffer.is_floating_point() and buffer.dtype != dtype:
                setattr(module, name, buffer.to(dtype))
    return model
