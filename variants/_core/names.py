"""Names: what a target means on a model, and values by patterns of names. The only copy, and without torch.

A preset goes by what the maps are, not by what one architecture calls them. Every linear map inside a
repeated block of the backbone has a kind:

    q, k, v    query, key and value          m    mlp
    qkv        all three in one map          x    another mixer of tokens: convolution, state space
    o          any other map of attention

What lies outside the blocks (embeddings, pooler, head) is in no preset. Experts that a model keeps as one
stack of matrices are in `experts` alone, each of them a map of its own. A list is taken literally, as
suffixes of names; `re:<regex>` must match whole names. A pattern with a value ("query=4") is a regular
expression that the end of a name matches, from a dot on, as PEFT reads its own; the first match counts.
"""

import difflib
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Targets = str | Sequence[str]
Patterns = dict[str, float]

PRESETS = {"qv": "qv", "qkv": "qkv", "attention": "qkvo", "mlp": "m", "all": "qkvomx", "experts": "e"}
_KINDS = {
    **dict.fromkeys(
        ["q", "query", "q_proj", "query_proj", "q_lin", "to_q", "q_head", "Wq", "q_attn", "query_global"], "q"
    ),
    **dict.fromkeys(["k", "key", "k_proj", "key_proj", "k_lin", "to_k", "k_head", "Wk", "key_global"], "k"),
    **dict.fromkeys(
        ["v", "value", "v_proj", "value_proj", "v_lin", "to_v", "v_head", "Wv", "value_global"], "v"
    ),
    **dict.fromkeys(["c_attn", "Wqkv", "qkv_proj", "query_key_value", "qkv", "in_proj"], "qkv"),
}
_APART = {"gate", "router", "shared_expert_gate", "pos_key_proj", "pos_query_proj", "pos_proj", "pos_q_proj"}
_OUTPUTS = {"o", "o_proj", "out_proj", "out_lin", "to_out", "Wo", "dense"}  # beside q in the block itself
_ATTENTION = re.compile(r"att(n|ention)", re.IGNORECASE)
_MLP = re.compile(r"mlp|ffn|feed_?forward|moe|expert|^ff$", re.IGNORECASE)
_MLP_PART = re.compile(r"experts?\b", re.IGNORECASE)  # one of several maps that share out the tokens
_CROSS = re.compile(r"cross|encdec", re.IGNORECASE)  # attention to another sequence
_STATE = re.compile(r"conv\d?d?|conv_?1d|A_log|rg_lru")  # of a mixer that is no attention
# Where q, k and v lie one after another in the rows of a fused map. Elsewhere they are interleaved by heads
# or groups, or it is not known: such a map is adapted as a whole or not at all.
_CONSECUTIVE = {"gpt2", "phi3", "modernbert", "gpt_bigcode"}


class TargetError(ValueError):
    """Targets that match nothing, or cannot be adapted."""


@dataclass(frozen=True)
class Target:
    """One map to adapt: a whole module, a block of the rows of a fused one, or one expert of a stack."""

    module: str
    d_in: int
    d_out: int
    block: str = ""
    rows: slice | None = field(default=None, compare=False)  # module and block say it all
    active: int = field(default=0, compare=False)  # experts that a token goes through; 0: it is no expert

    @property
    def name(self) -> str:
        """As shown to people."""
        return f"{self.module}[{self.block}]" if self.block else self.module

    def rank(self, r: float, options: Mapping[str, Any]) -> float:
        """r here: by `rank_pattern`, and with `expert_rank=active` shared out among a token's experts.

        Raises:
            ValueError: It cannot be shared out.
        """
        own = by_pattern(read_patterns("rank_pattern", options.get("rank_pattern")), self.module, r)
        if options.get("expert_rank") != "active" or not self.active or not own:
            return own
        if own % self.active:
            raise ValueError(
                f"expert_rank=active divides r by the {self.active} experts that a token goes through, and "
                f"{own:g} cannot be divided so at {self.name}: choose a multiple of {self.active}."
            )
        return own // self.active


@dataclass(frozen=True)
class Layout:
    """All of a model that decides what a target means on it.

    `heads` and `groups` are those of queries and of keys; `prefixes` are what may stand before the names. A
    token goes through `active` of the experts of a stack.
    """

    maps: Mapping[str, tuple[int, int]]  # linear maps of the backbone: (d_in, d_out)
    tensors: Collection[str]  # names of the parameters, those of the maps included
    model_type: str = ""
    heads: int = 1
    groups: int = 1
    prefixes: tuple[str, ...] = ("",)
    stacks: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)  # experts, d_in, d_out
    active: int = 1

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The kind of every linear map inside a block."""
        blocks = _blocks(self.tensors)
        branches = {name: branch for name in self.maps if (branch := _branch(name, blocks))}
        asking = {b for name, b in branches.items() if _KINDS.get(_leaf(name)) == "q"}
        fused = {b for name, b in branches.items() if _KINDS.get(_leaf(name)) == "qkv"}
        asking_blocks = {branch.rpartition(".")[0] for branch in asking}
        mixers = {b for t in self.tensors if (b := _branch(t, blocks)) and _STATE.fullmatch(t.split(".")[-1])}
        mixers |= {b for t in self.tensors if (b := _branch(t, blocks)) and _STATE.fullmatch(_leaf(_up(t)))}
        found = {}
        for name, branch in branches.items():
            leaf, own = _leaf(name), _leaf(branch)
            around = _up(_up(branch)).rpartition(".")[2]  # what the list of blocks is called
            if leaf in _APART:
                continue
            attends = branch in asking or _ATTENTION.search(own) or _ATTENTION.search(around)
            if _MLP.search(own) or (_MLP.search(around) and not attends):
                found[name] = "m"
            elif branch in asking and _KINDS.get(leaf) == "qkv":
                found[name] = "o"  # keys and values of a cross-attention
            elif attends or (branch in fused and branch not in mixers):
                found[name] = _KINDS.get(leaf, "o")
            elif branch in mixers:
                found[name] = "x"
            else:
                output = branch == name and leaf in _OUTPUTS and _up(branch) in asking_blocks
                found[name] = _KINDS.get(leaf) or ("o" if output else "m")
        return found

    def rows(self, d_out: int) -> dict[str, slice] | None:
        """The rows of q, k and v in a fused map of d_out rows; None where they are no blocks."""
        if self.model_type not in _CONSECUTIVE:
            return None
        q, kv = (d_out * n // (self.heads + 2 * self.groups) for n in (self.heads, self.groups))
        return {"q": slice(0, q), "k": slice(q, q + kv), "v": slice(q + kv, q + 2 * kv)}

    def experts(self, stack: str) -> Iterator[Target]:
        """Every expert of a stack."""
        count, d_in, d_out = self.stacks[stack]
        for e in range(count):
            rows = slice(e * d_out, (e + 1) * d_out)
            yield Target(stack, d_in, d_out, str(e), rows, self.active)

    def outputs(self, kind: str) -> list[Target]:
        """The map that each attention (kind "o") or each feed-forward layer ("m") ends in.

        TargetError where they cannot be told.
        """
        widths = [self.maps[name][0] for name, own in self.kinds.items() if own in ("q", "k", "v", "qkv")]
        width = max(widths, key=widths.count, default=0)
        blocks, places = _blocks(self.tensors), dict[str, list[str]]()
        for name, own in self.kinds.items():
            if own == kind:
                branch = _branch(name, blocks) or ""
                places.setdefault(branch if kind == "o" else _up(branch), []).append(name)
        found = []
        for place, names in places.items():
            ends = [n for n in names if self.maps[n][1] == width]
            narrowing = [n for n in ends if self.maps[n][0] != width] if len(ends) > 1 else ends
            if len(narrowing) != 1 or _MLP_PART.search(place):
                raise TargetError(
                    f"which map the {'attention' if kind == 'o' else 'feed-forward layer'} of {place} ends "
                    f"in is not clear from its maps ({', '.join(map(_leaf, names))}), so nothing can be "
                    "inserted there: variant=lora adapts any map."
                )
            found.append(Target(narrowing[0], *self.maps[narrowing[0]]))
        if not found:
            raise TargetError(
                f"this model has no {'attention' if kind == 'o' else 'feed-forward layer'} of linear maps in "
                "its blocks, so nothing can be inserted after it: variant=lora adapts any map."
            )
        return found

    def keys_and_values(self) -> list[tuple[str, int]]:
        """Each attention's name, and how many numbers one token's key (and value) has in it."""
        blocks, found = _blocks(self.tensors), dict[str, int]()
        for name, own in self.kinds.items():
            d_out = self.maps[name][1]
            if own == "k" and not _CROSS.search(name):
                found[_up(name)] = d_out
            elif own == "qkv" and _branch(name, blocks):
                found[_up(name)] = d_out * self.groups // (self.heads + 2 * self.groups)
        return list(found.items())


def find(layout: Layout, targets: Targets, *, layers: Any = None) -> dict[str, list[Target]]:
    """What each pattern matches.

    Args:
        layout: Of the model.
        targets: A preset, a list of name suffixes, or `re:<regex>`; a list may hold presets and regexes too.
        layers: Numbers of the blocks to adapt, as "0-3", "0,2,5" or a sequence; None for all.

    Raises:
        TargetError: A pattern matches nothing, or rows of a map that cannot be adapted apart.
    """
    allowed = None if layers is None else layer_numbers(layers)
    found = {}
    for pattern in [targets] if isinstance(targets, str) else targets:
        matched = list(_matched(layout, pattern))
        if not matched:
            raise TargetError(_nothing(pattern, [*layout.maps, *layout.stacks]))
        found[pattern] = [t for t in matched if allowed is None or block_index(t.module) in allowed]
        if not found[pattern]:
            raise TargetError(f"targets {pattern!r} match nothing in layers {layers!r}; {_where(matched)}.")
    return found


def block_index(name: str) -> int | None:
    """The number of the block that a module is in: 3 for encoder.layer.3.output.dense."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def layer_numbers(layers: Any) -> set[int]:
    """The blocks that "0-3", "0,2,5", a number or a sequence name; TargetError for what cannot be read."""
    if not isinstance(layers, str):
        return {layers} if isinstance(layers, int) else set(layers)
    numbers: set[int] = set()
    for part in layers.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise TargetError(f"layers {layers!r}: write numbers and ranges, as 0-3 or 0,2,5.")
        numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def read_patterns(option: str, given: object) -> Patterns:
    """The patterns of an option with their values: of a text, a mapping, or None.

    Raises:
        ValueError: It is not of the form pattern=number,pattern=number.
    """
    pairs: list[tuple[str, Any]] = []
    if isinstance(given, Mapping):
        pairs += given.items()
    elif given is not None:
        parts = (part.rpartition("=") for part in str(given).split(","))
        pairs += [(pattern.strip(), value) for pattern, _, value in parts]
    try:
        patterns = {pattern: float(value) for pattern, value in pairs if re.compile(pattern)}
        if all(pattern and math.isfinite(value) for pattern, value in patterns.items()):
            return patterns
    except (ValueError, TypeError, re.error):
        pass  # reported below, like a pattern that is empty
    raise ValueError(
        f"{option} {given!r} cannot be read: write patterns of module names and numbers, as query=4,value=16."
    )


def by_pattern(patterns: Mapping[str, float], name: str, otherwise: float) -> float:
    """The value of the first pattern that matches the end of a name."""
    matching = (value for pattern, value in patterns.items() if _ends(pattern, name))
    return next(matching, otherwise)


def check_used(option: str, patterns: Patterns, names: Collection[str]) -> None:
    """Refuse a pattern that matches none of the adapted maps: it would change nothing, unnoticed."""
    for pattern in patterns:
        if not any(_ends(pattern, name) for name in names):
            leaves = list(dict.fromkeys(map(_leaf, names)))
            near = difflib.get_close_matches(pattern, leaves, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{option}: {pattern!r} matches none of the adapted maps, which end in "
                f"{', '.join(leaves)}.{hint}"
            )


def _ends(pattern: str, name: str) -> bool:
    return re.fullmatch(rf"(.*\.)?({pattern})", name) is not None


def _matched(layout: Layout, pattern: str) -> Iterator[Target]:
    if pattern in PRESETS:
        yield from _preset(layout, pattern)
        return
    regex = _regex(pattern[3:]) if pattern.startswith("re:") else None

    def meant(name: str) -> bool:
        if regex is None:
            return f".{name}".endswith(f".{pattern}")
        return any(regex.fullmatch(prefix + name) for prefix in layout.prefixes)

    yield from (Target(name, *shape) for name, shape in layout.maps.items() if meant(name))
    for stack in filter(meant, layout.stacks):
        yield from layout.experts(stack)


def _preset(layout: Layout, preset: str) -> Iterator[Target]:
    if preset == "experts":
        for stack in layout.stacks:
            yield from layout.experts(stack)
        return
    instead = "Use targets=qkv, or name the fused map itself: targets=[{}]."
    yield from of_kinds(layout, PRESETS[preset], f"targets {preset!r}", instead)


def of_kinds(layout: Layout, wanted: str, said: str, instead: str) -> Iterator[Target]:
    """The maps of these kinds; TargetError of `said` and `instead` where a map cannot be cut."""
    for name, kind in layout.kinds.items():
        d_in, d_out = layout.maps[name]
        if kind != "qkv":
            if kind in wanted:
                yield Target(name, d_in, d_out)
        elif rows := layout.rows(d_out):
            for block, part in rows.items():
                if block in wanted:
                    yield Target(name, d_in, part.stop - part.start, block, part)
        elif set("qkv") <= set(wanted):
            yield Target(name, d_in, d_out)
        elif set("qkv") & set(wanted):
            raise TargetError(
                f"{name} holds q, k and v, and not one after another as far as is known, so {said} cannot "
                f"adapt some of them alone. {instead.format(_leaf(name))}"
            )


def _regex(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise TargetError(f"targets 're:{text}' is no regular expression: {error}.") from error


def _blocks(tensors: Iterable[str]) -> set[str]:
    """The names of lists of blocks: a number in a name, and more than a tensor below it."""
    parts = [name.split(".") for name in tensors]
    return {".".join(p[:i]) for p in parts for i in range(1, len(p) - 2) if p[i].isdigit()}


def _branch(name: str, blocks: set[str]) -> str | None:
    """The child of the innermost block that a module is in: h.0.attn for h.0.attn.c_proj; None outside."""
    parts = name.split(".")
    for i in range(len(parts) - 2, 0, -1):
        if parts[i].isdigit() and ".".join(parts[:i]) in blocks:
            return ".".join(parts[: i + 2])
    return None


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _up(name: str) -> str:
    return name.rpartition(".")[0]


def _where(matched: Sequence[Target]) -> str:
    numbers = [n for t in matched if (n := block_index(t.module)) is not None]
    return (
        f"they are in layers {min(numbers)} to {max(numbers)}" if numbers else "they are in no numbered layer"
    )


def _nothing(pattern: str, maps: Iterable[str]) -> str:
    suffixes = list(dict.fromkeys(_suffix(name) for name in maps))
    leaves = dict.fromkeys(map(_leaf, suffixes))
    known = [name for name in (*PRESETS, *leaves, *suffixes) if name != pattern]
    near = difflib.get_close_matches(pattern.removeprefix("re:"), known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    shown = ", ".join(suffixes[:20]) or "none at all"
    what = "stack of experts" if pattern == "experts" else "linear map"
    return (
        f"targets {pattern!r} match no {what} of the backbone.{hint} "
        f"Presets: {', '.join(PRESETS)}. Names here: {shown}. The head is always trained and is no target."
    )


def _suffix(name: str) -> str:
    """What is left of a name after the number of its innermost block."""
    parts = name.split(".")
    digits = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[digits[-1] + 1 :]) if digits else name
