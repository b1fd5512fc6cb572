"""Which linear maps of a model a run adapts.

A preset goes by what the modules are, not by what one architecture calls them. Every linear map inside a
repeated block of the backbone is a query, key, value, attention-output or mlp map. What lies outside the
blocks (embeddings, pooler, head) is in no preset. A list is taken literally, as suffixes of names;
`re:<regex>` must match whole names.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from variants._core.base import Base

Targets = str | Sequence[str]

PRESETS = {"qv": "qv", "qkv": "qkv", "attention": "qkvo", "mlp": "m", "all": "qkvom"}
_KINDS = {
    **dict.fromkeys(["q", "query", "q_proj", "query_proj", "q_lin", "to_q"], "q"),
    **dict.fromkeys(["k", "key", "k_proj", "key_proj", "k_lin", "to_k"], "k"),
    **dict.fromkeys(["v", "value", "v_proj", "value_proj", "v_lin", "to_v"], "v"),
    **dict.fromkeys(["c_attn", "Wqkv", "qkv_proj", "query_key_value", "qkv", "in_proj"], "qkv"),
}
# Where they are direct children of a block.
_OUTPUTS = {"o", "o_proj", "out_proj", "out_lin", "to_out", "Wo", "dense"}
_APART = {"gate", "router", "shared_expert_gate", "pos_key_proj", "pos_query_proj", "pos_proj", "pos_q_proj"}
# The q, k and v of each head lie side by side: no blocks to adapt apart.
_INTERLEAVED = {"query_key_value", "qkv", "in_proj"}


class TargetError(ValueError):
    """Targets that match nothing, or cannot be adapted."""


@dataclass(frozen=True)
class Target:
    """One map to adapt: a whole module, or a block of the rows of a fused one."""

    module: str
    d_in: int
    d_out: int
    block: str = ""
    rows: slice | None = field(default=None, compare=False)  # module and block say it all

    @property
    def name(self) -> str:
        """As shown to people."""
        return f"{self.module}[{self.block}]" if self.block else self.module


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a dense linear map: nn.Linear, an adapted one, or the Conv1D of GPT-2."""
    return (
        isinstance(module, nn.Linear) or isinstance(getattr(module, "base", None), Base) or is_conv1d(module)
    )


def is_conv1d(module: nn.Module) -> bool:
    """The Conv1D of transformers, whose weight is (d_in, d_out)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def shape(module: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of a linear map."""
    if hasattr(module, "base"):
        return module.base.d_in, module.base.d_out
    return tuple(module.weight.shape) if is_conv1d(module) else tuple(module.weight.shape[::-1])


def backbone_of(model: nn.Module) -> nn.Module:
    """The model without its head."""
    return getattr(model, "base_model", model)


def backbone_linears(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear map of the backbone, by its name in the whole model."""
    inside = {id(module) for module in backbone_of(model).modules()}
    return {name: m for name, m in model.named_modules() if is_linear(m) and id(m) in inside}


def block_index(name: str) -> int | None:
    """The number of the block that a module is in: 3 for encoder.layer.3.output.dense."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def resolve(model: nn.Module, targets: Targets, *, layers: Any = None) -> dict[str, list[str]]:
    """What each pattern matches, by name."""
    return {
        pattern: [t.name for t in found] for pattern, found in find(model, targets, layers=layers).items()
    }


def linear_shapes(model: nn.Module, targets: Targets, *, layers: Any = None) -> dict[str, tuple[int, int]]:
    """(d_in, d_out) of everything that the targets match."""
    matched = find(model, targets, layers=layers).values()
    return {target.name: (target.d_in, target.d_out) for found in matched for target in found}


def find(model: nn.Module, targets: Targets, *, layers: Any = None) -> dict[str, list[Target]]:
    """What each pattern matches. A pattern that matches nothing is an error.

    Args:
        model: the whole model, head included.
        targets: a preset, a list of name suffixes, or `re:<regex>`; a list may hold a regex as well.
        layers: numbers of the blocks to adapt, as "0-3", "0,2,5" or a sequence; None for all.
    """
    linears = backbone_linears(model)
    allowed = None if layers is None else _numbers(layers)
    found = {}
    for pattern in [targets] if isinstance(targets, str) else targets:
        matched = list(_matches(model, linears, pattern))
        if not matched:
            raise TargetError(_nothing(pattern, linears))
        found[pattern] = [t for t in matched if allowed is None or block_index(t.module) in allowed]
        if not found[pattern]:
            raise TargetError(f"targets {pattern!r} match nothing in layers {layers!r}; {_blocks(matched)}.")
    return found


def _matches(model: nn.Module, linears: Mapping[str, nn.Module], pattern: str) -> Iterator[Target]:
    if pattern in PRESETS:
        yield from _preset(model, linears, pattern)
        return
    regex = _regex(pattern[3:]) if pattern.startswith("re:") else None
    for name, module in linears.items():
        if regex.fullmatch(name) if regex else f".{name}".endswith(f".{pattern}"):
            yield Target(name, *shape(module))


def _regex(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise TargetError(f"targets 're:{text}' is no regular expression: {error}.") from error


def _preset(model: nn.Module, linears: Mapping[str, nn.Module], preset: str) -> Iterator[Target]:
    wanted = PRESETS[preset]
    for name, kind in kinds(model, linears).items():
        d_in, d_out = shape(linears[name])
        if kind != "qkv":
            if kind in wanted:
                yield Target(name, d_in, d_out)
        elif name.rpartition(".")[2] not in _INTERLEAVED:
            for block, rows in _blocks_of_fused(model, d_out).items():
                if block in wanted:
                    yield Target(name, d_in, rows.stop - rows.start, block, rows)
        elif set("qkv") <= set(wanted):
            yield Target(name, d_in, d_out)
        elif set("qkv") & set(wanted):
            raise TargetError(
                f"{name} holds q, k and v of each head side by side, so targets {preset!r} cannot adapt "
                "some of them alone. "
                f"Use targets=qkv, or name the fused map itself: targets=[{name.rpartition('.')[2]}]."
            )


def kinds(model: nn.Module, linears: Mapping[str, nn.Module]) -> dict[str, str]:
    """What each linear map inside a block is: q, k, v, qkv (fused), o or m (mlp)."""
    lists = {name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    branches = {name: branch for name in linears if (branch := _branch(name, lists)) is not None}
    attention = {branches[name] for name in branches if name.rpartition(".")[2] in _KINDS}
    found = {}
    for name, branch in branches.items():
        leaf = name.rpartition(".")[2]
        if leaf in _APART:
            continue
        direct = branch == name  # a child of the block itself, so that its siblings tell what it is
        siblings = {branch.rpartition(".")[0] + "." + q for q in ("q_proj", "query", "q")} & attention
        output = branch in attention or (direct and leaf in _OUTPUTS and bool(siblings))
        found[name] = _KINDS.get(leaf) or ("o" if output else "m")
    return found


def _branch(name: str, lists: set[str]) -> str | None:
    """The child of the innermost repeated block that a module is in: h.0.attn for h.0.attn.c_proj.

    None outside blocks.
    """
    parts = name.split(".")
    for i in range(len(parts) - 2, 0, -1):
        if parts[i].isdigit() and ".".join(parts[:i]) in lists:
            return ".".join(parts[: i + 2])
    return None


def _blocks_of_fused(model: nn.Module, d_out: int) -> dict[str, slice]:
    """Rows of q, k and v in a fused map, which may have fewer heads for k and v."""
    config = getattr(model, "config", None)
    heads = getattr(config, "num_attention_heads", 1)
    groups = getattr(config, "num_key_value_heads", None) or heads
    q, kv = (d_out * n // (heads + 2 * groups) for n in (heads, groups))
    return {"q": slice(0, q), "k": slice(q, q + kv), "v": slice(q + kv, q + 2 * kv)}


def _numbers(layers: Any) -> set[int]:
    if not isinstance(layers, str):
        return {layers} if isinstance(layers, int) else set(layers)
    numbers: set[int] = set()
    for part in layers.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise TargetError(f"layers {layers!r}: write numbers and ranges, as 0-3 or 0,2,5.")
        numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def _blocks(matched: Sequence[Target]) -> str:
    numbers = [n for t in matched if (n := block_index(t.module)) is not None]
    return (
        f"they are in layers {min(numbers)} to {max(numbers)}" if numbers else "they are in no numbered layer"
    )


def _nothing(pattern: str, linears: Mapping[str, nn.Module]) -> str:
    suffixes = list(dict.fromkeys(_suffix(name) for name in linears))
    leaves = dict.fromkeys(name.rpartition(".")[2] for name in suffixes)
    near = difflib.get_close_matches(
        pattern.removeprefix("re:"), [*PRESETS, *leaves, *suffixes], n=3, cutoff=0.5
    )
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    shown = ", ".join(suffixes[:20]) or "none at all"
    return (
        f"targets {pattern!r} match no linear map of the backbone.{hint} "
        f"Presets: {', '.join(PRESETS)}. Names here: {shown}. The head is always trained and is no target."
    )


def _suffix(name: str) -> str:
    """What is left of a name after the number of its innermost block."""
    parts = name.split(".")
    digits = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[digits[-1] + 1 :]) if digits else name


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
