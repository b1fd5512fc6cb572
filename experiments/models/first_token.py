"""The last layer of an encoder at the first token alone, where that is all that its head reads.

A classifier on BERT or RoBERTa takes each text's first token from the last layer. The queries, the output of
attention and the feed-forward part of the other tokens go nowhere there and get no gradient: of six layers
they are a seventh of all products, and without them the logits and gradients are what they were.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def shortened(model: nn.Module, inputs: Mapping[str, Tensor]) -> nn.Module | None:
    """The last layer of a model whose head reads the first token alone; None of any other.

    That is tried, not taken from a name: the other tokens of that layer's output are made NaN, which must
    not reach the logits, and the first token must be the same when it is worked out alone. Rows of a run that
    has diverged say nothing. A layer of another build than BERT's gives None, as one with hooks does. The
    model is left in evaluation mode.

    Args:
        model: In place, with what it trains.
        inputs: Of its forward pass, two tokens a text or more.
    """
    layers = getattr(getattr(getattr(model, "base_model", None), "encoder", None), "layer", None)
    if not isinstance(layers, nn.ModuleList):
        return None
    layer: Any = layers[-1]
    attention = getattr(getattr(layer, "attention", None), "self", None)
    parts = ("query", "key", "value", "attention_head_size", "scaling", "dropout")
    if attention is None or not all(hasattr(attention, part) for part in parts):
        return None
    if not hasattr(layer, "feed_forward_chunk") or layer.is_decoder:
        return None
    if any(m._forward_hooks or m._forward_pre_hooks for m in (layer, layer.attention, attention)):
        return None
    found: list[Tensor] = []

    def keep(_: object, __: object, out: Tensor) -> Tensor:
        found.append(out[:, 0].clone())
        return torch.cat([out[:, :1], torch.full_like(out[:, 1:], torch.nan)], dim=1)

    model.eval()
    handle = layer.register_forward_hook(keep)
    try:
        logits = model(**inputs).logits
        sound = torch.isfinite(found[0]).all(1)
        if not sound.any() or not torch.isfinite(logits[sound]).all():
            return None
        with at_first_token(layer):
            model(**inputs)
    finally:
        handle.remove()
    whole, alone = (states[sound] for states in found)
    near = 1e-3 if whole.dtype == torch.float32 else 5e-2
    return layer if torch.allclose(whole, alone, rtol=near, atol=near) else None


@contextmanager
def at_first_token(layer: Any) -> Iterator[None]:
    """While open, a layer that `shortened` found gives its first token, (rows, 1, d); nothing for None."""
    if layer is None:
        yield
        return
    layer.forward = lambda hidden, mask=None, *_, **__: _first_token(layer, hidden, mask)
    try:
        yield
    finally:
        del layer.forward  # the one of its class is seen again


def _first_token(layer: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attention, first = layer.attention.self, hidden[:, :1]

    def heads(states: Tensor) -> Tensor:
        return states.unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)

    attend = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation]
    out, _ = attend(
        attention,
        heads(attention.query(first)),
        heads(attention.key(hidden)),
        heads(attention.value(hidden)),
        None if mask is None else mask[:, :, :1],
        dropout=attention.dropout.p if attention.training else 0.0,
        scaling=attention.scaling,
    )
    own: Tensor = layer.feed_forward_chunk(layer.attention.output(out.flatten(2), first))
    return own
