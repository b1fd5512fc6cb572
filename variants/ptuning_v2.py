"""P-tuning v2: deep prompts that learn themselves. Liu et al. 2022, arXiv:2110.07602.

    attention of layer i: softmax(q [P_K^i; K]^T / sqrt(d)) [P_V^i; V]

    symbol   name         shape        role
    P        embedding    (K, l, s)    weight    N(0, prefix_std^2)

Prefix tuning (`variants/prefix.py`, whose words these are) without the MLP. Trained: l s, and the head.

Deviations: the paper calls the MLP optional; here it is left out. Its lengths for each task are not followed.
The authors' code has prefix_std = 1, which buries what a decoder knows where its own values are smaller:
SmolLM2's are 0.04 in its first layer, and its loss would begin at 11.8 instead of 3.9. The default is 0.02.
"""

from collections.abc import Collection

import torch
from torch import nn

from variants._core.attach import Attached
from variants._core.registry import register
from variants._core.run import RunConfig
from variants.prefix import prefix
from variants.prefix import sizes as sizes


@register("method", "ptuning_v2")
def ptuning_v2(
    model: nn.Module,
    runs: tuple[RunConfig, ...],
    *,
    device: torch.device | str | None = None,
    fresh: Collection[str] | None = None,
) -> Attached:
    """Keys and values in front of every layer's, for each run, and a head."""
    return prefix(model, runs, device=device, fresh=fresh)
