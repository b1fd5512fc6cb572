"""One bottleneck adapter for each block. Pfeiffer et al. 2021 (AdapterFusion), arXiv:2005.00247.

    z  = LN(h + x)                             h the feed-forward layer's output, x its residual input
    h' = h + U relu(D z + b_D) + b_U           then LN(h' + x), with the block's own layer norm, frozen

    symbol     name     shape                role
    D, b_D     down     (K, m, d), (K, m)    weight, bias    truncated normal of 0.02, zero
    U, b_U     up       (K, d, m), (K, d)    weight, bias    the same

m is the option `bottleneck` (the authors divide d by 16). Trained: 2 d m + m + d for each block, and the
head.

Deviations: a block that normalises first (GPT-2, LLaMA) has no layer norm after the sum; there z = h, as in
Houlsby's adapter. The adapter comes before the base's dropout, where that is on.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants._core.attach import Attached, Inserted
from variants._core.names import Target
from variants._core.own import freeze, head_parameters, pack_heads
from variants._core.registry import register
from variants._core.run import RunConfig
from variants._core.storage import store_backbone
from variants._core.targets import layout_of
from variants.houlsby import adapter_sizes, add, insert

_AFTER = ("LayerNorm", "output_layer_norm", "full_layer_layer_norm")  # BERT's kin, DistilBERT, ALBERT


def sizes(model: Any, options: Mapping[str, Any]) -> dict[str, int]:
    """Trained parameters by role, as `costs.method_sizes` says."""
    return adapter_sizes(model.layout.outputs("m"), int(options["bottleneck"]))


def _around_norm(norm: nn.Module, inputs: tuple[Tensor], z: Tensor) -> Tensor:
    """A forward hook on the layer norm: LN(s + U relu(D z)), s = h + x its input, z = LN(s)."""
    return norm.forward(inputs[0] + norm.bottleneck(z))


def _norm_after(model: nn.Module, place: Target) -> Target | None:
    """The layer norm that takes the sum of a feed-forward layer's output and its residual."""
    parts = place.module.split(".")
    for up in (1, 2):
        owner = ".".join(parts[:-up])
        for leaf in _AFTER:
            if isinstance(getattr(model.get_submodule(owner), leaf, None), nn.LayerNorm):
                return Target(f"{owner}.{leaf}", place.d_out, place.d_out)
    return None


@register("method", "pfeiffer")
def pfeiffer(
    model: nn.Module,
    runs: tuple[RunConfig, ...],
    *,
    device: torch.device | str | None = None,
    fresh: Collection[str] | None = None,
) -> Attached:
    """An adapter after each feed-forward layer, for each run, and a head."""
    freeze(model)
    places: Sequence[Target] = layout_of(model).outputs("m")
    store_backbone(model, runs, device=device)
    heads = pack_heads(model, [run.seed for run in runs], fresh=fresh)
    norms = [_norm_after(model, place) for place in places]
    if all(norms):
        trained = insert(model, runs, [n for n in norms if n], _around_norm, std=0.02, sigma=F.relu)
    else:
        trained = insert(model, runs, places, add, std=0.02, sigma=F.relu)
    return Attached(
        model,
        runs,
        [*trained, *head_parameters(heads)],
        heads=heads,
        inserted=Inserted(what="bottleneck adapters"),
    )
