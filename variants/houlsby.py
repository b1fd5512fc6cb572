"""Bottleneck adapters. Houlsby et al. 2019, arXiv:1902.00751.

    h' = h + U sigma(D h + b_D) + b_U          (fig. 2), after the attention's output map and after the
                                               feed-forward layer's, before residual sum and layer norm

    symbol     name          shape           role
    D, b_D     down          (K, m, d), (K, m)    weight, bias    truncated normal of 0.001, zero
    U, b_U     up            (K, d, m), (K, d)    weight, bias    the same
    the layer norms' own     (d,)                 bias            as in the checkpoint, trained

m is the option `bottleneck`, sigma is GELU. Trained: 2 d m + m + d for each of the two places of a block, the
layer norms and the head. The norms are the model's own parameters, so that such a run trains alone.

Deviations: the adapter comes before the base's dropout, where that is on. In a block that normalises first
(GPT-2, LLaMA) it stands at the same place, before the residual sum. The start is that of the authors' code;
the paper names 0.01.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants._core.attach import Attached, Inserted
from variants._core.names import Target
from variants._core.own import PackedLinear, freeze, head_parameters, inserted, only_one, pack_heads, unfreeze
from variants._core.registry import register
from variants._core.run import RunConfig, Trained
from variants._core.seeds import generator
from variants._core.storage import store_backbone
from variants._core.targets import backbone_linears, layout_of

Activation = Callable[[Tensor], Tensor]


class Bottleneck(nn.Module):
    """U sigma(D h) of each run: (rows, *mid, d) to the same shape."""

    def __init__(self, down: PackedLinear, up: PackedLinear, sigma: Activation) -> None:
        super().__init__()
        self.down, self.up, self.sigma = down, up, sigma

    def forward(self, h: Tensor) -> Tensor:
        """What is added to h."""
        return self.up(self.sigma(self.down(h)))


def bottleneck(
    runs: Sequence[RunConfig], name: str, d: int, *, std: float, sigma: Activation, device: torch.device
) -> Bottleneck:
    """The adapters of one place, each drawn from its run's seed; ValueError for sizes that differ."""
    sizes = {int(run.options["bottleneck"]) for run in runs}
    if len(sizes) != 1:
        raise ValueError(f"runs of one pack need one bottleneck; these have {sorted(sizes)}.")
    m = sizes.pop()

    def drawn(leaf: str, shape: tuple[int, int]) -> PackedLinear:
        start = [torch.empty(shape) for _ in runs]
        for run, weight in zip(runs, start, strict=True):
            source = generator(run.seed, "init", name, leaf)
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=source)
        return PackedLinear(torch.stack(start).to(device), torch.zeros(len(runs), shape[0], device=device))

    return Bottleneck(drawn("down", (m, d)), drawn("up", (d, m)), sigma)


def insert(
    model: nn.Module,
    runs: Sequence[RunConfig],
    places: Sequence[Target],
    hook: Callable[..., Tensor],
    *,
    std: float,
    sigma: Activation,
) -> list[Trained]:
    """Put an adapter at each place, through a forward hook on its module."""
    trained = []
    for place in places:
        module = model.get_submodule(place.module)
        device = next(module.parameters()).device
        module.bottleneck = bottleneck(runs, place.module, place.d_out, std=std, sigma=sigma, device=device)
        module.register_forward_hook(hook)
        trained += inserted(f"{place.module}.bottleneck", module.bottleneck, len(runs))
    return trained


def add(module: nn.Module, inputs: Any, h: Tensor) -> Tensor:
    """A forward hook: h + U sigma(D h)."""
    return h + module.bottleneck(h)


def adapter_sizes(places: Sequence[Target], m: int) -> dict[str, int]:
    """Trained parameters by role of one adapter at each place."""
    return {"weight": sum(2 * p.d_out * m for p in places), "bias": sum(m + p.d_out for p in places)}


def sizes(model: Any, options: Mapping[str, Any]) -> dict[str, int]:
    """Trained parameters by role, as `costs.method_sizes` says."""
    places = model.layout.outputs("o") + model.layout.outputs("m")
    found = adapter_sizes(places, int(options["bottleneck"]))
    norms = {name: s for name, s in model.shapes.items() if _is_norm(name, len(s), model.layout.maps)}
    found["bias"] += sum(math.prod(shape) for shape in norms.values())
    return found


def _is_norm(name: str, dimensions: int, maps: Collection[str]) -> bool:
    """Whether a vector is a norm's: all of a backbone's that are no bias of a linear map."""
    return dimensions == 1 and name.rpartition(".")[0] not in maps


@register("method", "houlsby")
def houlsby(
    model: nn.Module,
    runs: tuple[RunConfig, ...],
    *,
    device: torch.device | str | None = None,
    fresh: Collection[str] | None = None,
) -> Attached:
    """Two adapters for each block of one run, its norms and its head; a pack of several is refused."""
    only_one(runs)
    freeze(model)
    layout, maps = layout_of(model), set(backbone_linears(model))
    store_backbone(model, runs, device=device)
    heads = pack_heads(model, [runs[0].seed], fresh=fresh)
    norms, originals = unfreeze(model, lambda name, p: ".base" not in name and _is_norm(name, p.ndim, maps))
    places = layout.outputs("o") + layout.outputs("m")
    trained = insert(model, runs, places, add, std=1e-3, sigma=F.gelu)
    return Attached(
        model,
        runs,
        [*trained, *norms, *head_parameters(heads)],
        heads=heads,
        originals=originals,
        inserted=Inserted(what="bottleneck adapters"),
    )
