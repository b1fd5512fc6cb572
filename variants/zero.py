"""No training at all: the model as it is, with a head drawn from each run's seed.

The floor of every comparison.
"""

from collections.abc import Collection

import torch
from torch import nn

from variants._core.attach import Attached
from variants._core.own import freeze, pack_heads
from variants._core.registry import register
from variants._core.run import RunConfig
from variants._core.storage import store_backbone


@register("method", "zero")
def zero(
    model: nn.Module,
    runs: tuple[RunConfig, ...],
    *,
    device: torch.device | str | None = None,
    fresh: Collection[str] | None = None,
) -> Attached:
    """Everything frozen, the heads too."""
    store_backbone(model, runs, device=device)
    heads = pack_heads(model, [run.seed for run in runs], fresh=fresh)
    freeze(model)
    return Attached(model, runs, [], heads=heads)
