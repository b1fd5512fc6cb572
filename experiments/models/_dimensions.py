"""A model's dimensions from its config.json, for checks that come before anything heavy is imported."""

from typing import Any

from experiments.models._check import config
from experiments.models._find import Spec, cached_source, local_source


def dimensions(spec: Spec) -> dict[str, Any] | None:
    """Facts of a model's config.json under one set of names, or None if the model is not here yet.

    Returns:
        model_type, hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, vocab_size, max_length
        (None where the config sets none); `linear`: {"q": (d_in, d_out), k, v, o, up, down}; and `min_dim`,
        the least of these.
    """
    source = local_source(spec) or cached_source(spec)
    if source is None:
        return None
    facts = config(source.folder)

    def first(*names: str) -> Any:  # some models have a number for each layer, some config.json are damaged
        value = next((facts[name] for name in names if facts.get(name) is not None), None)
        return value if type(value) is int and value > 0 else None

    hidden = first("hidden_size", "n_embd", "d_model", "dim", "emb_dim")
    heads = first("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads")
    if not hidden or not heads:
        return None
    kv_heads, head_dim = first("num_key_value_heads") or heads, first("head_dim", "d_kv") or hidden // heads
    inner = (
        first("intermediate_size", "n_inner", "d_ff", "hidden_dim", "ffn_dim", "encoder_ffn_dim")
        or 4 * hidden
    )
    limit = first("max_position_embeddings", "n_positions")
    linear = {
        "q": (hidden, heads * head_dim),
        "k": (hidden, kv_heads * head_dim),
        "v": (hidden, kv_heads * head_dim),
        "o": (heads * head_dim, hidden),
        "up": (hidden, inner),
        "down": (inner, hidden),
    }
    return {
        "model_type": facts["model_type"],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "layers": first("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": first("vocab_size"),
        "max_length": limit,  # XLNet's is -1: none
        "linear": linear,
        "min_dim": min(min(shape) for shape in linear.values()),
    }
