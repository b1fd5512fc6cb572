"""Which layers no pack can share: those that a model feeds without a batch axis, found out by running it."""

from collections.abc import Collection

import torch
from torch import nn

from variants._targets import backbone_linears, backbone_of


@torch.no_grad()
def fed_without_batch(model: nn.Module, names: Collection[str] | None = None) -> list[str]:
    """Linear maps of the backbone whose input does not grow with the number of examples.

    DeBERTa's maps of relative positions are such: one table for all rows, where each run would need its own.
    The backbone is run twice on a few tokens. A model that does not take token ids is not run, and nothing is
    found.
    """
    if getattr(model, "main_input_name", None) != "input_ids":
        return []
    linears = backbone_linears(model)
    found: dict[str, None] = {}
    rows = 0

    def check(name: str):
        return lambda module, inputs: found.setdefault(name) if inputs[0].shape[0] % rows else None

    hooks = [linears[n].register_forward_pre_hook(check(n)) for n in (linears if names is None else names)]
    training = model.training
    try:
        model.eval()
        for rows in (5, 7):
            _run(model, rows)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return list(found)


def _run(model: nn.Module, rows: int) -> None:
    device = next(model.parameters()).device
    ids = torch.ones(rows, 2, dtype=torch.long, device=device)
    extra = {"decoder_input_ids": ids} if getattr(model.config, "is_encoder_decoder", False) else {}
    backbone_of(model)(input_ids=ids, **extra)
