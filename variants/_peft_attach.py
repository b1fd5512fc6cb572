"""Adapters of PEFT on our model, as the runs of a pack: each must fit the model, and be all that it says."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from variants._method import Attached, attach
from variants._peft_read import Adapter
from variants._peft_settings import AdapterError
from variants._targets import backbone_linears, block_index

_PARAMETERS = {
    "lora": {"A": "A", "B": "B"},
    "dora": {"A": "A", "B": "B", "m": "m"},
    "adalora": {"Q": "A", "P": "B", "L": "E"},
}


def attach_peft(
    model: nn.Module,
    adapters: Sequence[Adapter],
    *,
    storage: str = "fp32",
    options: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
) -> Attached:
    """Attach adapters to one base, as the runs of one pack.

    The model's own head stays where an adapter brings none.

    Args:
        model: the base; it is changed in place.
        adapters: one entry per run.
        storage: how the base is kept.
        options: what the storage reads, e.g. nf4's `double_quant` and `compute`.
        device: where the model shall be.

    Raises:
        AdapterError: an adapter is for another model, or lacks tensors that its own settings ask for.
    """
    linears = backbone_linears(model)
    for adapter in adapters:
        _check_fit(adapter, linears)
    runs = [a.run(storage=storage, options=options) for a in adapters]
    attached = attach(model, runs, device=device, fresh=())
    with torch.no_grad():
        for k, adapter in enumerate(adapters):
            _fill(attached, k, adapter)
    attached.after_load()
    return attached


def _check_fit(adapter: Adapter, linears: Collection[str]) -> None:
    """Whether the model has every module of the adapter, and the adapter every module that it says it has."""
    strange = [name for name in (*adapter.modules, *adapter.emptied) if name not in linears]
    if strange:
        raise AdapterError(
            f"{adapter.folder} is for another model: this one has no {', '.join(strange[:3])}."
        )
    there = {*adapter.modules, *adapter.emptied}
    extra = [name for name in adapter.modules if not _is_target(adapter.config, name)]
    if adapter.config.get("target_modules") and extra:
        raise AdapterError(
            f"{adapter.folder}: tensors for modules outside its target_modules were found, which PEFT would "
            f"pass over: {', '.join(extra[:3])}."
        )
    missing = [name for name in linears if name not in there and _is_target(adapter.config, name)]
    if missing:
        raise AdapterError(
            f"{adapter.folder}: tensors for {len(there) + len(missing)} modules were expected, as its "
            f"target_modules say, but {len(missing)} have none: {', '.join(missing[:3])}."
        )


def _is_target(config: Mapping[str, Any], name: str) -> bool:
    """Whether PEFT adapts a module, by the settings of an adapter."""
    layers = config.get("layers_to_transform")
    if layers is not None and block_index(name) not in ([layers] if isinstance(layers, int) else layers):
        return False
    return _listed(config.get("target_modules"), name) and not _listed(config.get("exclude_modules"), name)


def _listed(modules: Any, name: str) -> bool:
    """A text is a pattern for the whole name, a list holds names or ends of names."""
    if isinstance(modules, str):
        return modules == "all-linear" or re.fullmatch(modules, name) is not None
    return any(f".{name}".endswith(f".{end}") for end in modules or ())


def _fill(attached: Attached, k: int, adapter: Adapter) -> None:
    for name, (held, i) in attached.slots(k).items():
        for parameter, key in _PARAMETERS[adapter.delta].items():
            _copy(
                getattr(held.delta, parameter)[i], adapter.modules[name][key], f"{name} {key}", adapter.folder
            )
    own = {
        f"{name}.{leaf}": p[k] for name, head in attached.heads.items() for leaf, p in head.named_parameters()
    }
    unknown = sorted(set(adapter.heads) - set(own))
    if unknown:
        raise AdapterError(
            f"{adapter.folder}: {', '.join(unknown[:3])} are no parameters of this model's head."
        )
    for name, tensor in adapter.heads.items():
        _copy(own[name], tensor, name, adapter.folder)


def _copy(target: Tensor, source: Tensor, what: str, folder: Path) -> None:
    if target.shape != source.shape:
        raise AdapterError(
            f"{folder}: {what} should be {tuple(target.shape)} for this model, found {tuple(source.shape)}."
        )
    target.copy_(source)
