"""A model's tensors by name and shape, read from the headers of its files: nothing is loaded, no torch.

What a run would train of a model can be counted from this. Which map is a query and which a part of the mlp
follows the rules by which `variants` finds its targets, here on names instead of modules.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from experiments.models._dimensions import dimensions
from experiments.models._find import Spec, cached_source, local_source
from experiments.models._kinds import kinds

Shapes = dict[str, tuple[int, ...]]

PRESETS = {"qv": "qv", "qkv": "qkv", "attention": "qkvo", "mlp": "m", "all": "qkvom"}
_INTERLEAVED = {"query_key_value", "qkv", "in_proj"}
_NO_PARAMETER = re.compile(r"(.*\.)?(position_ids|inv_freq|masked_bias|attn\.bias)")  # buffers
_EMBEDDING = re.compile(r"(.*\.)?(\w*embed\w*|wte|wpe|shared|relative_attention_bias)\.weight")
_POOLED = ("bert", "albert")  # backbones that pool when they classify
_PREFIXES = ("", "model.", "transformer.")  # what a head's class may put before a backbone's names


@dataclass(frozen=True)
class LinearMap:
    """A linear map of the backbone."""

    name: str
    d_in: int
    d_out: int
    kind: str  # q, k, v, qkv (fused), o, m (mlp); "" for maps in no preset

    @property
    def block(self) -> int | None:
        """The number of the block that it is in."""
        return next((int(part) for part in self.name.split(".") if part.isdigit()), None)


@dataclass(frozen=True)
class Skeleton:
    """The parts of a model that counting needs."""

    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    shapes: Mapping[str, tuple[int, ...]]  # of the backbone's parameters
    outside: int  # parameters of the checkpoint that are not in the backbone
    maps: tuple[LinearMap, ...]

    @cached_property
    def backbone(self) -> int:
        """Parameters of the backbone."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def biases(self) -> int:
        """Those of them that are biases."""
        return sum(math.prod(s) for name, s in self.shapes.items() if name.endswith("bias"))

    @cached_property
    def linear(self) -> int:
        """Those of them that are weights of linear maps, which every token passes."""
        return sum(m.d_in * m.d_out for m in self.maps)

    def head(self, classes: int) -> tuple[int, int]:
        """Weights and biases of the head that a classifier of `classes` classes puts on this backbone."""
        shape = _HEADS.get(self.model_type, _DECODER if self.model_type in _DECODERS else _LINEAR)
        weights = self.hidden * (self.hidden * bool(shape.inner) + classes)
        return weights, self.hidden * (shape.inner == "biased") + classes * shape.biased

    @property
    def head_norm(self) -> int:
        """Weights of a norm in the classifier's head, which is no map and stays as the backbone does."""
        return self.hidden * _HEADS.get(self.model_type, _LINEAR).normed

    def body(self, classes: int) -> int:
        """Parameters of the backbone, and of a norm in the head if there is a head (0 classes: none)."""
        return self.backbone + (self.head_norm if classes else 0)

    def matches(self, targets: str | tuple[str, ...], layers: object = None) -> list[tuple[str, int, int]]:
        """(module, d_in, d_out) of all that the targets adapt; empty if nothing."""
        found: dict[tuple[str, str], tuple[str, int, int]] = {}
        for pattern in [targets] if isinstance(targets, str) else targets:
            for m, block, d_out in self._matched(pattern):
                if layers is None or m.block in _numbers(str(layers)):
                    found[m.name, block] = (m.name, m.d_in, d_out)
        return list(found.values())

    def _matched(self, pattern: str) -> Iterator[tuple[LinearMap, str, int]]:
        """Maps, or blocks of the rows of fused ones, with the rows that are adapted."""
        if pattern not in PRESETS:
            yield from ((m, "", m.d_out) for m in self.maps if self._is_meant(m.name, pattern))
            return
        wanted = PRESETS[pattern]
        for m in self.maps:
            if m.kind == "qkv" and m.name.rpartition(".")[2] not in _INTERLEAVED:
                share = m.d_out // (self.heads + 2 * self.kv_heads)
                sizes = {"q": self.heads * share, "k": self.kv_heads * share, "v": self.kv_heads * share}
                yield from ((m, block, rows) for block, rows in sizes.items() if block in wanted)
            elif m.kind and set(m.kind) <= set(wanted):
                yield m, "", m.d_out

    def _is_meant(self, name: str, pattern: str) -> bool:
        if not pattern.startswith("re:"):
            return f".{name}".endswith(f".{pattern}")
        prefixes = (*_PREFIXES, f"{self.model_type.replace('-', '_')}.")
        return any(re.fullmatch(pattern[3:], prefix + name) for prefix in prefixes)


@dataclass(frozen=True)
class _Head:
    inner: str = ""  # a map from hidden to hidden before the classes: "biased" or "plain"
    biased: bool = True  # whether the map to the classes has a bias
    normed: bool = False  # whether a norm without bias follows the inner map


_LINEAR, _DECODER = _Head(), _Head(biased=False)
_HEADS = {
    **dict.fromkeys(["bert", "albert"], _LINEAR),
    **dict.fromkeys(["roberta", "xlm-roberta", "camembert", "electra", "mpnet"], _Head("biased")),
    **dict.fromkeys(["distilbert", "deberta", "deberta-v2", "t5", "mt5", "umt5"], _Head("biased")),
    "modernbert": _Head("plain", normed=True),
}
_DECODERS = (
    "gpt2",
    "gpt_neo",
    "gptj",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "phi",
    "phi3",
)


def skeleton(spec: Spec) -> Skeleton | None:
    """The skeleton of a spec's model; None if it is not on this machine or only there as a pickle."""
    source, facts = local_source(spec) or cached_source(spec), dimensions(spec)
    if source is None or facts is None:
        return None
    files = sorted(source.folder.glob("model*.safetensors"))
    stored: Shapes = {}
    for file in files:
        stored |= _header(str(file), file.stat().st_size, file.stat().st_mtime_ns)
    if not stored:
        return None
    shapes = _backbone(stored, facts)
    return Skeleton(
        model_type=facts["model_type"],
        hidden=facts["hidden_size"],
        layers=facts["layers"] or 1,
        heads=facts["heads"],
        kv_heads=facts["kv_heads"],
        vocab=facts["vocab_size"] or 0,
        shapes=shapes,
        outside=sum(math.prod(s) for s in stored.values()) - sum(math.prod(s) for s in shapes.values()),
        maps=tuple(_maps(shapes, facts["vocab_size"])),
    )


@lru_cache(maxsize=64)
def _header(path: str, size: int, changed: int) -> Shapes:
    """The parameters in a safetensors file; size and time of change make a changed file be read again."""
    with Path(path).open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return {
        name: tuple(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"][0] in "FB" and not _is_buffer(name, entry["shape"])
    }


def _is_buffer(name: str, shape: list[int]) -> bool:
    """Masks, frequencies and numbers of positions; GPT-2's attn.bias is a mask of four dimensions."""
    return _NO_PARAMETER.fullmatch(name) is not None and (len(shape) != 1 or name.endswith("inv_freq"))


def _backbone(stored: Shapes, facts: Mapping[str, object]) -> Shapes:
    """The backbone's parameters without the prefix under which a checkpoint with a head has them."""
    tops = {name.split(".")[0] for name in stored if any(part.isdigit() for part in name.split("."))}
    embeddings = {name.split(".")[0] for name, shape in stored.items() if shape[:1] == (facts["vocab_size"],)}
    prefix = f"{tops.pop()}." if len(tops) == 1 and tops & embeddings else ""
    shapes = {name.removeprefix(prefix): shape for name, shape in stored.items() if name.startswith(prefix)}
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith(("lm_head.", "cls."))}
    kind, hidden = facts["model_type"], facts["hidden_size"]
    if kind in _POOLED and not any(name.startswith("pooler") for name in shapes):
        assert isinstance(hidden, int)
        return shapes | {"pooler.dense.weight": (hidden, hidden), "pooler.dense.bias": (hidden,)}
    if kind in _HEADS and kind not in _POOLED:
        return {name: shape for name, shape in shapes.items() if not name.startswith("pooler.")}
    return shapes


def _maps(shapes: Shapes, vocab: object) -> Iterator[LinearMap]:
    """The linear maps: matrices that are no embeddings."""
    names = [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith(".weight")
        and len(shape) == 2
        and shape[0] != vocab
        and not _EMBEDDING.fullmatch(name)
    ]
    found = kinds(names, shapes)
    for name in names:
        d_out, d_in = shapes[f"{name}.weight"]
        bias = shapes.get(f"{name}.bias", (d_out,))[0]
        if bias == d_in != d_out:  # GPT-2 keeps (d_in, d_out)
            d_out, d_in = d_in, d_out
        yield LinearMap(name, d_in, d_out, found.get(name, ""))


@lru_cache(maxsize=64)
def _numbers(layers: str) -> frozenset[int]:
    """The blocks that "0-3" or "0,2,5" name; none for what cannot be read, which attaching refuses."""
    numbers: set[int] = set()
    for part in layers.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit() and (last or first).isdigit():
            numbers |= set(range(int(first), int(last or first) + 1))
    return frozenset(numbers)
