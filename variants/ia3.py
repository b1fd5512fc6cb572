"""(IA)^3: learned vectors rescale keys, values and inner activations. Liu et al. 2022, arXiv:2205.05638.

    softmax(q (l_k * k)^T / sqrt(d)) (l_v * v)          (sec. 3.3)
    W_2 (l_ff * gamma(W_1 x))
    l = 1 at the start, so nothing changes

    symbol       name    shape         role
    l_k, l_v     l       (K, d_out)    bias    ones; of the output of the key and the value map, its bias too
    l_ff         l       (K, d_in)     bias    ones; of the input of the map that a feed-forward layer ends in

Trained: the outputs of all key and value maps, the inputs of all W_2, and the head. Merged, l becomes a part
of W and b, and there is no added latency.

Deviations: none. The paper's losses for few examples (unlikelihood, length-normalised) are not taken over.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from variants._core.attach import Attached, Inserted
from variants._core.names import Layout, Target, of_kinds
from variants._core.own import freeze, head_parameters, inserted, pack_heads
from variants._core.registry import register
from variants._core.run import RunConfig, Trained
from variants._core.storage import store_backbone
from variants._core.targets import is_conv1d, layout_of


class Rescale(nn.Module):
    """A vector for each run, on some columns of what is (rows, *mid, d)."""

    def __init__(self, runs: int, d: int, columns: slice, device: torch.device) -> None:
        super().__init__()
        self.l = nn.Parameter(torch.ones(runs, d, device=device))
        self.columns = columns

    def whole(self, d: int) -> Tensor:
        """The factors of all columns, one outside of its own: (K, d)."""
        if self.l.shape[1] == d:
            return self.l
        start, stop = self.columns.start, self.columns.stop
        ones = self.l.new_ones
        return torch.cat([ones(len(self.l), start), self.l, ones(len(self.l), d - stop)], 1)

    def forward(self, h: Tensor) -> Tensor:
        """Each run's rows times its own factors."""
        factors = self.whole(h.shape[-1])
        rows = h.reshape(len(factors), -1, h.shape[-1])
        return (rows * factors[:, None]).to(h.dtype).view(h.shape)


def _outputs(module: nn.Module, inputs: Any, y: Tensor) -> Tensor:
    for name in ("ia3_k", "ia3_v"):
        if hasattr(module, name):
            y = getattr(module, name)(y)
    return y


def _inputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (module.ia3_ff(inputs[0]), *inputs[1:])


def _keys_and_values(layout: Layout) -> dict[Target, str]:
    said = ("variant=ia3", "variant=pfeiffer needs the feed-forward layers alone.")
    return {target: kind for kind in "kv" for target in of_kinds(layout, kind, *said)}


def sizes(model: Any, options: Mapping[str, Any]) -> dict[str, int]:
    """Trained parameters by role, as `costs.method_sizes` says."""
    scaled = sum(t.d_out for t in _keys_and_values(model.layout))
    return {"bias": scaled + sum(t.d_in for t in model.layout.outputs("m"))}


@register("method", "ia3")
def ia3(
    model: nn.Module,
    runs: tuple[RunConfig, ...],
    *,
    device: torch.device | str | None = None,
    fresh: Collection[str] | None = None,
) -> Attached:
    """Vectors on keys, values and feed-forward layers, for each run, and a head."""
    freeze(model)
    layout = layout_of(model)
    store_backbone(model, runs, device=device)
    heads = pack_heads(model, [run.seed for run in runs], fresh=fresh)
    scaled: list[tuple[str, str, Rescale]] = []

    def rescale(name: str, leaf: str, d: int, columns: slice) -> None:
        module = model.get_submodule(name)
        setattr(module, leaf, Rescale(len(runs), d, columns, next(model.parameters()).device))
        scaled.append((name, leaf, getattr(module, leaf)))

    for target, kind in _keys_and_values(layout).items():
        rescale(target.module, f"ia3_{kind}", target.d_out, target.rows or slice(0, target.d_out))
    for name in dict.fromkeys(name for name, *_ in scaled):
        model.get_submodule(name).register_forward_hook(_outputs)
    for target in layout.outputs("m"):
        rescale(target.module, "ia3_ff", target.d_in, slice(0, target.d_in))
        model.get_submodule(target.module).register_forward_pre_hook(_inputs)
    trained: list[Trained] = [
        t for name, leaf, own in scaled for t in inserted(f"{name}.{leaf}", own, len(runs))
    ]
    attached = Attached(model, runs, [*trained, *head_parameters(heads)], heads=heads)

    def vectors(k: int) -> dict[str, Tensor]:
        """Run k's factors of each map, of all its outputs or inputs."""
        found: dict[str, Tensor] = {}
        for name, leaf, own in scaled:
            d_in, d_out = layout.maps[name]
            factors = own.whole(d_in if leaf == "ia3_ff" else d_out)[k].detach()
            found[name] = found[name] * factors if name in found else factors
        return found

    ends = [name for name, leaf, _ in scaled if leaf == "ia3_ff"]

    def fold(plain: nn.Module, k: int) -> None:
        for name, vector in vectors(k).items():
            module = plain.get_submodule(name)
            of_rows = name not in ends
            along_first = of_rows != is_conv1d(module)
            factors = vector[:, None] if along_first else vector
            module.weight = nn.Parameter(module.weight.detach() * factors, requires_grad=False)
            if of_rows and module.bias is not None:
                module.bias = nn.Parameter(module.bias.detach() * vector, requires_grad=False)
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
            for leaf in ("ia3_k", "ia3_v", "ia3_ff"):
                if hasattr(module, leaf):
                    delattr(module, leaf)

    def to_peft(k: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors = {
            f"base_model.model.{name}.ia3_l": v[None] if name in ends else v[:, None]
            for name, v in vectors(k).items()
        }
        config = {"peft_type": "IA3", "target_modules": list(vectors(k)), "feedforward_modules": ends}
        return config | {"fan_in_fan_out": any(map(is_conv1d, model.modules()))}, tensors

    attached.inserted = Inserted(what="the vectors of (IA)^3", fold=fold, to_peft=to_peft)
    return attached
