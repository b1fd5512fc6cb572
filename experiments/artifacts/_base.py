"""One base loaded for many sources, and what each of them trained put back on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from experiments.artifacts._source import Source
from experiments.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from experiments.models import Info
    from variants import Attached, RunConfig


@dataclass
class Base:
    """A frozen model, and the forms that its linear maps are stored in, each made when first asked for."""

    model: "PreTrainedModel"  # as loaded, in fp32; never changed
    tokenizer: "PreTrainedTokenizerBase"
    info: "Info"
    device: "torch.device"
    _stored: dict[tuple[Any, ...], "PreTrainedModel"] = field(default_factory=dict)

    def stored(self, source: Source, options: Mapping[str, Any]) -> Any:
        """A model of its own structure that shares all frozen tensors, its maps stored as a source asks."""
        from experiments.models import clone
        from variants import store_backbone, top_blocks

        key = (source.storage, source.trained_blocks, *sorted(options.items()))
        if key not in self._stored:
            model = clone(self.model)
            whole = top_blocks(model, source.trained_blocks) if source.trained_blocks else ()
            store_backbone(model, [_bare(source.storage, options)], whole=whole, device=self.device)
            self._stored[key] = model.to(self.device)  # not before: the device never holds the dense maps
        return clone(self._stored[key])


def load_base(source: Source) -> Base:
    """The base of a source, from where its spec says; UserError if it is not to be had."""
    from experiments import models
    from experiments.training.execute import device

    model, tokenizer, info = models.load(
        source.loading,
        kind=source.kind,
        n_labels=source.outputs,
        labels=source.labels if source.spec is not None else (),  # an adapter brings its head
        base_dropout=0.0,
    )
    return Base(model, tokenizer, info, device())


def put_back(
    base: Base, sources: Sequence[Source], *, options: Mapping[str, Any] | None = None
) -> "Attached":
    """Attach sources to the base as the runs of one pack.

    Args:
        base: Their base; it stays as it is.
        sources: One storage for all; several only where each is an adapter.
        options: Of the storage, in the place of the sources' own.

    Raises:
        UserError: a source does not fit the base, with what was expected and what was found.
    """
    from variants import AdapterError, attach_peft, read_peft

    for source in sources:
        _check_weights(base, source)
    first = sources[0]
    chosen = dict(first.storage_options if options is None else options)
    model = base.stored(first, chosen)
    if first.adapter is None:
        attached = _by_name(base, model, first, chosen)
    else:
        adapters = [read_peft(source.adapter) for source in sources if source.adapter]
        try:
            attached = attach_peft(model, adapters, storage=first.storage, options=chosen, device=base.device)
        except AdapterError as error:
            raise UserError(f"{error} The base is {base.info.source}") from error
        fresh_heads = {name for name in base.info.fresh if name.partition(".")[0] in _tops(attached.heads)}
        for source, adapter in zip(sources, adapters, strict=True):
            if missing := sorted(fresh_heads - set(adapter.heads)):
                raise UserError(
                    f"{source.path} lacks {', '.join(missing[:3])}: the base has no head of its own, so the "
                    "adapter has to bring all of it (modules_to_save)"
                )
    attached.model.eval()
    return attached


def _check_weights(base: Base, source: Source) -> None:
    if source.base_sha256 not in (None, base.info.sha256):
        raise UserError(
            f"{source.name} was trained on weights with SHA-256 {source.base_sha256}, but {base.info.source} "
            f"holds {base.info.sha256}: its base has changed. Restore the model that it was trained on"
        )


def dense_base(base: Base, source: Source, *, options: Mapping[str, Any]) -> Any:
    """A plain model without adapters that holds the base as the source saw it, quantised and back."""
    import torch

    from variants import Attached, merge

    untrained = Attached(base.stored(source, options), (_bare(source.storage, options),), [])
    return merge(untrained, 0, dtype=torch.float32)


def _bare(storage: str, options: Mapping[str, Any]) -> "RunConfig":
    """A run that trains nothing on a base so stored."""
    from variants import RunConfig

    return RunConfig(seed=0, method="zero", axes={"storage": storage}, options=options)


def _tops(heads: Mapping[str, Any]) -> set[str]:
    return {name.partition(".")[0] for name in heads}


def _by_name(base: Base, model: Any, source: Source, options: Mapping[str, Any]) -> "Attached":
    """A run that PEFT has no format for: what it trained is kept by name."""
    from safetensors.torch import load_file

    from experiments.training.loop import run_config
    from variants import attach

    assert source.spec is not None  # an adapter from elsewhere is in PEFT's format
    run = run_config(source.spec, steps=source.spec.train.steps or 1)
    run = replace(run, options={**run.options, **options})
    attached = attach(model, [run], device=base.device, fresh=base.info.fresh)
    tensors = load_file(source.trained) if source.trained else {}
    try:
        attached.put_back(0, tensors)
    except ValueError as error:
        raise UserError(
            f"{source.trained or source.path} does not hold what {source.name} trained: {error}"
        ) from error
    return attached
