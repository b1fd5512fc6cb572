"""The linear probe: the head learns on the frozen base, nothing else does.

The baseline that shows what adaptation adds.
"""

from collections.abc import Collection

import torch
from torch import nn

from variants._core.attach import Attached
from variants._core.own import freeze, head_parameters, pack_heads
from variants._core.registry import register
from variants._core.run import RunConfig
from variants._core.storage import store_backbone


@register("method", "probe")
def probe(
    model: nn.Module,
    runs: tuple[RunConfig, ...],
    *,
    device: torch.device | str | None = None,
    fresh: Collection[str] | None = None,
) -> Attached:
    """One head per run on one frozen base."""
    freeze(model)
    store_backbone(model, runs, device=device)
    heads = pack_heads(model, [run.seed for run in runs], fresh=fresh)
    if not heads:
        raise ValueError(
            f"{type(model).__name__} has no head to train: a probe needs a task of classes. Here "
            "variant=zero tests the model as it is."
        )
    return Attached(model, runs, head_parameters(heads), heads=heads)
