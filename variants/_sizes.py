"""What a model's frozen weights take, counted from what is stored."""

from collections.abc import Collection

from torch import nn

from variants._base import Base


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
