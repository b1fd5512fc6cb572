"""A model's skeleton from its class, built without weights on the meta device."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.sizing.skeleton import Head, Skeleton


def on_meta(folder: Path, facts: Mapping[str, Any]) -> Skeleton | None:
    """The skeleton of the model whose config.json is in a folder; None if transformers cannot build it."""
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
        classifier=None if two is None or three is None else _head(two, three),
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


def _head(two: Any, three: Any) -> Head:
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
