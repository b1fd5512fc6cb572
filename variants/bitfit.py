"""BitFit: only biases learn. Ben Zaken, Ravfogel, Goldberg 2021, arXiv:2106.10199.

Every parameter of the backbone whose own name ends in bias, those of the layer norms and DeBERTa's q_bias and
v_bias included, and the head.

Deviations: none. Models without biases (LLaMA and its kin) are refused, as nothing would be left of the
method.
"""

from collections.abc import Collection

import torch
from torch import nn

from variants._core.attach import Attached
from variants._core.own import freeze, head_parameters, only_one, pack_heads, unfreeze
from variants._core.registry import register
from variants._core.run import RunConfig


@register("method", "bitfit")
def bitfit(
    model: nn.Module,
    runs: tuple[RunConfig, ...],
    *,
    device: torch.device | str | None = None,
    fresh: Collection[str] | None = None,
) -> Attached:
    """The biases of one run; a pack of several is refused."""
    only_one(runs)
    if runs[0].axis("storage") != "fp32":
        raise ValueError("bitfit trains the model's own biases in place: keep the base in storage=fp32.")
    freeze(model)
    heads = pack_heads(model, [runs[0].seed], fresh=fresh)
    trained, originals = unfreeze(model, lambda name, _: name.endswith("bias"))
    if not trained:
        raise ValueError(
            f"{type(model).__name__} has no biases in its backbone: BitFit would train nothing of it. "
            "variant=ia3 trains vectors in their stead."
        )
    return Attached(model, runs, [*trained, *head_parameters(heads)], heads=heads, originals=originals)
