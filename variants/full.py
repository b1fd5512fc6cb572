"""Full fine-tuning: every parameter of backbone and head learns. The baseline of all adapters.

The head of a language model that is not tied to its embedding is one of them.
Its best learning rate is far below an adapter's; compare it at its own.
"""

from collections.abc import Collection

import torch
from torch import nn

from variants._core.attach import Attached
from variants._core.own import freeze, head_parameters, only_one, pack_heads, unfreeze
from variants._core.registry import register
from variants._core.run import RunConfig


@register("method", "full")
def full(
    model: nn.Module,
    runs: tuple[RunConfig, ...],
    *,
    device: torch.device | str | None = None,
    fresh: Collection[str] | None = None,
) -> Attached:
    """All weights of one run; a pack of several is refused."""
    only_one(runs)
    if runs[0].axis("storage") != "fp32":
        raise ValueError(
            "full fine-tuning changes every weight: none can be kept in a frozen storage, use storage=fp32."
        )
    freeze(model)
    heads = pack_heads(model, [runs[0].seed], fresh=fresh)
    packed = {f"{name}.{leaf}" for name, head in heads.items() for leaf, _ in head.named_parameters()}
    trained, originals = unfreeze(model, lambda name, _: name not in packed, within=model)
    return Attached(model, runs, [*trained, *head_parameters(heads)], heads=heads, originals=originals)
