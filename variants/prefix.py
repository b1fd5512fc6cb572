"""Prefix tuning: learned keys and values in front of the text's. Li & Liang 2021, arXiv:2101.00190.

    attention of layer i: softmax(q [P_K^i; K]^T / sqrt(d)) [P_V^i; V]
    P = MLP(P') = tanh(P' M_1 + b_1) M_2 + b_2          (sec. 4.3)

    symbol       name         shape                role
    P'           embedding    (K, l, d)            weight          N(0, 1)
    M_1, b_1     mlp.0        (K, m, d), (K, m)    weight, bias    U(+-1/sqrt(d))
    M_2, b_2     mlp.2        (K, s, m), (K, s)    weight, bias    U(+-1/sqrt(m))

l is the option `length`, m is `inner`; s counts one token's keys and values in all layers. Columns of P are
key, value of layer 0, key, value of layer 1, and so on. Trained: l d + d m + m + m s + s, and the head. After
training the MLP is of no more use; an export holds P alone.

Tokens stand at the positions after the prefix, as a cache of l entries would put them, and the prefix carries
no positions of its own. It joins the keys inside of attention and never a cache, so that generation knows
nothing of it.

Deviations: none of form. The start is PyTorch's, as in the authors' code.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from variants._core.attach import Attached, Inserted
from variants._core.names import TargetError
from variants._core.own import PackedLinear, check_positions, freeze, head_parameters, inserted, pack_heads
from variants._core.registry import register
from variants._core.run import RunConfig
from variants._core.seeds import generator, normal, uniform
from variants._core.storage import store_backbone
from variants._core.targets import backbone_of, layout_of

_ATTENTION = "ablora_prefix"  # the name under which transformers finds the attention below


class Prefix(nn.Module):
    """P of each run: what all layers' keys and values begin with."""

    def __init__(self, runs: Sequence[RunConfig], hidden: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = [size for size in sizes for _ in "kv"]
        shapes = {(int(run.options["length"]), run.options.get("inner")) for run in runs}
        if len(shapes) != 1:
            raise ValueError(f"runs of one pack need one length and one inner; these have {shapes}.")
        self.length, inner = shapes.pop()
        width = hidden if inner else sum(self.sizes)
        draws = [_start(run, (self.length, width)) for run in runs]
        self.embedding = nn.Parameter(torch.stack(draws))
        self.mlp = nn.Sequential()
        if inner:
            down = _linear(runs, "down", hidden, int(inner))
            self.mlp = nn.Sequential(down, nn.Tanh(), _linear(runs, "up", int(inner), sum(self.sizes)))
        self.now: tuple[Tensor, ...] = ()

    def forward(self) -> Tensor:
        """P: (K, l, s)."""
        return self.mlp(self.embedding)

    def work_out(self) -> None:
        """Before a forward pass: what each layer will read."""
        self.now = self().split(self.sizes, dim=-1)

    def extend(self, own: Tensor, which: int) -> Tensor:
        """Keys or values (rows, heads, T, d), their part of the prefix in front: (rows, heads, l + T, d)."""
        rows, heads, _, d = own.shape
        part = self.now[which].to(own.dtype).view(-1, self.length, heads, d).transpose(1, 2)
        return torch.cat([part.repeat_interleave(rows // len(part), 0), own], dim=2)


def _start(run: RunConfig, shape: tuple[int, int]) -> Tensor:
    return normal(
        shape, float(run.options.get("prefix_std", 1.0)), generator(run.seed, "init", "prefix", "P")
    )


def _linear(runs: Sequence[RunConfig], leaf: str, d_in: int, d_out: int) -> PackedLinear:
    bound = 1 / math.sqrt(d_in)
    sources = [generator(run.seed, "init", "prefix", leaf) for run in runs]
    weights = torch.stack([uniform((d_out, d_in), bound, source) for source in sources])
    return PackedLinear(weights, torch.stack([uniform((d_out,), bound, source) for source in sources]))


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention by PyTorch's kernel to the prefix and to what the mask allows."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if hasattr(module, "prefix_of"):
        prefix, layer = module.prefix_of
        key, value = prefix.extend(key, 2 * layer), prefix.extend(value, 2 * layer + 1)
        if attention_mask is not None:
            attention_mask = nn.functional.pad(attention_mask, (prefix.length, 0))  # 0: attended to
    kwargs["is_causal"] = False  # the mask says it all
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _before(backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A forward pre-hook on the backbone: P is worked out once, and positions begin after it."""
    prefix = backbone.prefix
    prefix.work_out()
    ids = args[0] if args else kwargs.get("input_ids")
    ids = kwargs["inputs_embeds"][..., 0] if ids is None else ids
    cache = kwargs.get("past_key_values")
    past = cache.get_seq_length() if cache is not None else 0
    left = getattr(backbone.config, "max_position_embeddings", None)  # for tokens
    limit = None if left is None else left + prefix.length
    check_positions(past + ids.shape[1], prefix.length, "prefix", limit)
    padded = getattr(getattr(backbone, "embeddings", None), "create_position_ids_from_input_ids", None)
    if kwargs.get("position_ids") is not None:
        positions = kwargs["position_ids"] + prefix.length
    elif padded is not None:  # RoBERTa counts from its padding's number
        positions = padded(ids, backbone.embeddings.padding_idx, past + prefix.length)
    else:
        positions = torch.arange(ids.shape[1], device=ids.device)[None] + past + prefix.length
    return args, {**kwargs, "position_ids": positions}


def sizes(model: Any, options: Mapping[str, Any]) -> dict[str, int]:
    """Trained parameters by role, as `costs.method_sizes` says."""
    length, inner = int(options["length"]), options.get("inner")
    s = 2 * sum(size for _, size in model.layout.keys_and_values())
    if not inner:
        return {"weight": length * s}
    return {"weight": length * model.hidden + int(inner) * (model.hidden + s), "bias": int(inner) + s}


@register("method", "prefix")
def prefix(
    model: nn.Module,
    runs: tuple[RunConfig, ...],
    *,
    device: torch.device | str | None = None,
    fresh: Collection[str] | None = None,
) -> Attached:
    """A prefix to the keys and values of every layer, for each run, and a head.

    Raises:
        TargetError: The model's attention has no place for it.
    """
    freeze(model)
    backbone, places = backbone_of(model), layout_of(model).keys_and_values()
    config = model.config
    if config.is_encoder_decoder or not getattr(backbone, "_supports_attention_backend", False) or not places:
        raise TargetError(
            f"{type(model).__name__} computes attention in its own code (or has two stacks), which a "
            "prefix cannot enter: variant=ia3 rescales the same keys and values."
        )
    store_backbone(model, runs, device=device)
    heads = pack_heads(model, [run.seed for run in runs], fresh=fresh)
    backbone.prefix = Prefix(runs, config.hidden_size, [size for _, size in places])
    backbone.prefix.to(next(model.parameters()).device)
    for layer, (name, _) in enumerate(places):
        model.get_submodule(name).prefix_of = (backbone.prefix, layer)
    _use_attention(config)
    if getattr(config, "max_position_embeddings", None):
        config.max_position_embeddings -= backbone.prefix.length  # those that are left for tokens
    backbone.register_forward_pre_hook(_before, with_kwargs=True)
    name = next(name for name, module in model.named_modules() if module is backbone.prefix)
    trained = [*inserted(name, backbone.prefix, len(runs)), *head_parameters(heads)]
    added = Inserted(
        what="the keys and values of a prefix",
        positions=backbone.prefix.length,
        to_peft=lambda k: _to_peft(backbone.prefix, config, k),
    )
    return Attached(model, runs, trained, heads=heads, inserted=added)


def _use_attention(config: Any) -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(_ATTENTION, _attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_ATTENTION, eager_mask)  # a mask in numbers, causal or not
    config._attn_implementation = _ATTENTION


def _to_peft(own: Prefix, config: Any, k: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if len(set(own.sizes)) != 1:
        raise ValueError("PEFT's prefixes are of one size in all layers, and this model's layers differ.")
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    described = {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": own.length,
        "num_layers": len(own.sizes) // 2,
        "num_attention_heads": heads,
        "token_dim": own.sizes[0],
        "num_transformer_submodules": 1,
        "prefix_projection": False,
    }
    return described, {"prompt_embeddings": own()[k].detach()}
