"""A model's tensors by name and shape, without loading it.

The families whose checkpoints say all are read from the headers of their files, without torch. Any other
model is built from its config on the meta device, which shows its head, its experts and the maps that it
does not use exactly, and takes the seconds that transformers needs to be imported.
"""

import copy
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from experiments.models import dimensions
from experiments.models._find import Spec, cached_source, local_source
from variants._core.names import Layout, Target, TargetError, find

Shapes = dict[str, tuple[int, ...]]

_NO_PARAMETER = re.compile(r"(.*\.)?(position_ids|inv_freq|masked_bias|attn\.bias)")  # buffers
_EMBEDDING = re.compile(r"(.*\.)?(\w*embed\w*|wte|wpe|shared|relative_attention_bias)\.weight")
_POOLED = ("bert", "albert")  # backbones that pool when they classify
_PREFIXES = ("", "model.", "transformer.")  # what a head's class may put before a backbone's names


@dataclass(frozen=True)
class Head:
    """What a classifier puts on a backbone: numbers that it always has, and those that each class adds."""

    weights: int
    class_weights: int
    biases: int
    class_biases: int
    norm: int = 0  # weights of what is no linear map, and stays as the backbone does


@dataclass(frozen=True)
class Skeleton:
    """The parts of a model that counting needs."""

    model_type: str
    hidden: int
    layers: int
    heads: int
    vocab: int
    shapes: Mapping[str, tuple[int, ...]]  # of the backbone's parameters
    outside: int  # parameters of a language model that are not in the backbone
    layout: Layout  # the linear maps
    classifier: Head | None  # None: the architecture has none
    unused: frozenset[str] = frozenset()  # maps that the model never uses, so that nothing adapts them

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
        return sum(d_in * d_out for d_in, d_out in self.layout.maps.values())

    @cached_property
    def experts(self) -> int:
        """Those of the experts that a token passes."""
        active, stacks = self.layout.active, self.layout.stacks.values()
        return sum(min(active, count) * d_in * d_out for count, d_in, d_out in stacks)

    def head(self, classes: int) -> tuple[int, int]:
        """Weights and biases of the head that a classifier of `classes` classes puts on this backbone."""
        head = self.classifier or Head(0, 0, 0, 0)
        return head.weights + classes * head.class_weights, head.biases + classes * head.class_biases

    def body(self, classes: int) -> int:
        """Parameters of the backbone, and of a norm in the head if there is a head (0 classes: none)."""
        return self.backbone + (self.classifier.norm if classes and self.classifier else 0)

    def matches(self, targets: str | tuple[str, ...], layers: object = None) -> list[Target]:
        """All that the targets adapt; empty if nothing."""
        try:
            found = find(self.layout, targets, layers=layers)
        except TargetError:
            return []
        every = dict.fromkeys(target for part in found.values() for target in part)
        return [target for target in every if target.module not in self.unused]


_INNER = (  # a map from hidden to hidden before the one to the classes
    *("roberta", "xlm-roberta", "camembert", "electra", "mpnet", "distilbert", "deberta", "deberta-v2"),
    *("t5", "mt5", "umt5"),
)
_BARE = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3")  # no biases
_KNOWN = (*_POOLED, *_INNER, *_BARE, "modernbert")  # families that are read from their files


def _head(kind: str, hidden: int) -> Head:
    """The head of a family that is known here."""
    if kind == "modernbert":
        return Head(hidden * hidden, hidden, 0, 1, norm=hidden)
    inner = kind in _INNER
    return Head(hidden * hidden * inner, hidden, hidden * inner, int(kind not in _BARE))


def skeleton(spec: Spec) -> Skeleton | None:
    """The skeleton of a spec's model; None if it is not on this machine or only there as a pickle."""
    source, facts = local_source(spec) or cached_source(spec), dimensions(spec)
    if source is None or facts is None:
        return None
    if facts["model_type"] not in _KNOWN:
        return _on_meta(source.folder, facts)
    files = sorted(source.folder.glob("model*.safetensors"))
    stored: Shapes = {}
    for file in files:
        stored |= _header(str(file), file.stat().st_size, file.stat().st_mtime_ns)
    if not stored:
        return None
    shapes, kind = _backbone(stored, facts), facts["model_type"]
    return Skeleton(
        model_type=kind,
        hidden=facts["hidden_size"],
        layers=facts["layers"] or 1,
        heads=facts["heads"],
        vocab=facts["vocab_size"] or 0,
        shapes=shapes,
        outside=sum(math.prod(s) for s in stored.values()) - sum(math.prod(s) for s in shapes.values()),
        layout=Layout(
            maps=dict(_maps(shapes, facts["vocab_size"])),
            tensors=shapes.keys(),
            model_type=kind,
            heads=facts["heads"],
            groups=facts["kv_heads"],
            prefixes=(*_PREFIXES, f"{kind.replace('-', '_')}."),
        ),
        classifier=_head(kind, facts["hidden_size"]),
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
    if kind in _KNOWN and kind not in (*_POOLED, *_BARE):
        return {name: shape for name, shape in shapes.items() if not name.startswith("pooler.")}
    return shapes


def _maps(shapes: Shapes, vocab: object) -> Iterator[tuple[str, tuple[int, int]]]:
    """(d_in, d_out) of the linear maps, by name: matrices that are no embeddings."""
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if module == name or len(shape) != 2 or shape[0] == vocab or _EMBEDDING.fullmatch(name):
            continue
        d_out, d_in = shape
        bias = shapes.get(f"{module}.bias", (d_out,))[0]
        if bias == d_in != d_out:  # GPT-2 keeps (d_in, d_out)
            d_out, d_in = d_in, d_out
        yield module, (d_in, d_out)


def _on_meta(folder: Path, facts: Mapping[str, Any]) -> Skeleton | None:
    """The skeleton by the model's class, built without weights; None if transformers cannot build it."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError):  # what loading it will say
        return None
    two, three = (_built(config, "AutoModelForSequenceClassification", classes) for classes in (2, 3))
    causal = _built(config, "AutoModelForCausalLM")
    model = three or causal
    if model is None:
        return None
    from variants._core.targets import backbone_of, layout_of, unreached

    shapes = {name: tuple(p.shape) for name, p in backbone_of(model).named_parameters()}
    layout = layout_of(model)
    try:
        unused = unreached(model)
    except RuntimeError:  # as attaching takes it, which cannot try it either
        unused = frozenset()
    return Skeleton(
        model_type=facts["model_type"],
        hidden=facts["hidden_size"],
        layers=facts["layers"] or 1,
        heads=facts["heads"],
        vocab=facts["vocab_size"] or 0,
        shapes=shapes,
        outside=0 if causal is None else _parameters(causal) - _parameters(backbone_of(causal)),
        layout=layout,
        classifier=None if two is None or three is None else _head_on_meta(two, three),
        unused=unused,
    )


def _built(config: Any, auto: str, classes: int | None = None) -> Any:
    """A model of one of transformers' Auto classes; None if the architecture has no such class."""
    import torch
    import transformers

    config = copy.deepcopy(config)
    if classes is not None:
        config.num_labels = classes
    try:
        with torch.device("meta"):
            return getattr(transformers, auto).from_config(config).eval().requires_grad_(False)
    except Exception:  # the code of any architecture may raise anything on a config that does not fit it
        return None


def _head_on_meta(two: Any, three: Any) -> Head:
    """The head's sizes, from a model of two classes and one of three."""
    from variants._core.own import head_linears
    from variants._core.targets import backbone_of

    def sizes(model: Any) -> tuple[int, int]:
        linears = head_linears(model).values()
        biases = sum(linear.bias.numel() for linear in linears if linear.bias is not None)
        return sum(linear.weight.numel() for linear in linears), biases

    (w2, b2), (w3, b3) = sizes(two), sizes(three)
    norm = _parameters(three) - _parameters(backbone_of(three)) - w3 - b3
    return Head(w3 - 3 * (w3 - w2), w3 - w2, b3 - 3 * (b3 - b2), b3 - b2, norm)


def _parameters(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())
