"""Adapters that PEFT wrote, read with suspicion, and put on our model as the runs of a pack.

Each must fit the model, and be all that it says.
"""

import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from variants._core.attach import Attached, attach
from variants._core.names import block_index, by_pattern
from variants._core.registry import get, names
from variants._core.run import RunConfig
from variants._core.targets import backbone_linears
from variants._peft.config import CONFIG, AdapterError, expected_rank, read_settings
from variants._peft.write import PREFIX, WEIGHTS, head_tensors

_KEYS = {
    "lora_A": "A",
    "lora_A.weight": "A",
    "lora_B": "B",
    "lora_B.weight": "B",
    "lora_E": "E",
    "lora_magnitude_vector": "m",
    "lora_magnitude_vector.weight": "m",
}


@dataclass(frozen=True)
class Adapter:
    """An adapter as read: settings, tensors of each module, and the head's tensors by name."""

    folder: Path
    config: Mapping[str, Any]
    modules: Mapping[str, Mapping[str, Tensor]]
    heads: Mapping[str, Tensor]
    emptied: frozenset[str] = frozenset()  # modules whose whole rank was pruned away

    @property
    def delta(self) -> str:
        """Which delta its tensors are those of."""
        tensors = set(next(iter(self.modules.values())))
        return next(name for name in names("delta") if set(_peft_of(name).values()) == tensors)

    def run(self, *, storage: str = "fp32", options: Mapping[str, Any] | None = None) -> RunConfig:
        """The run that it is on our side; `options` are those of the storage."""
        ranks = {name: len(tensors["A"]) for name, tensors in self.modules.items()}
        stable = bool(self.config.get("use_rslora"))
        alphas = {n: self._scale(n, r) * (math.sqrt(r) if stable else r) for n, r in ranks.items()}
        return RunConfig(
            seed=0,
            targets=tuple(ranks),
            r=next(iter(ranks.values())),
            alpha=next(iter(alphas.values())),
            axes={
                "delta": self.delta,
                "scaling": "alpha_over_sqrt_r" if stable else "alpha_over_r",
                "storage": storage,
            },
            options={
                "rank_pattern": _exactly(ranks),
                "alpha_pattern": _exactly(alphas),
                **get("delta", self.delta).peft_options,
                **(options or {}),
            },
        )

    def _scale(self, name: str, rank: int) -> float:
        config = self.config
        if self.delta == "adalora":
            return config["lora_alpha"] / (config["init_r"] + 1e-5)
        alpha = by_pattern(config.get("alpha_pattern") or {}, name, config["lora_alpha"])
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _peft_of(delta: str) -> Mapping[str, str]:
    """What a delta itself, and not one that it builds on, declares of PEFT's format."""
    return vars(get("delta", delta)).get("peft", {})


def read_peft(folder: str | os.PathLike) -> Adapter:
    """Read an adapter folder.

    Anything not understood in full is refused, and pickled weights are never opened.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise AdapterError(f"{folder} holds no {CONFIG}: it is not an adapter of PEFT.")
    if not (folder / WEIGHTS).is_file():
        others = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth"})
        pickled = (
            f" {', '.join(others)} could run code when opened and is not read: save it again as safetensors."
            if others
            else ""
        )
        raise AdapterError(f"{folder} holds no {WEIGHTS}.{pickled}")
    config = read_settings(folder)
    modules: dict[str, dict[str, Tensor]] = {}
    heads = {}
    for key, tensor in _tensors(folder).items():
        name, _, leaf = key.removeprefix(PREFIX).partition(".lora_")
        if not leaf:
            heads[name] = tensor
        elif f"lora_{leaf}" not in _KEYS:
            raise AdapterError(f"{folder}: tensor {key} is of a kind that is not known here.")
        else:
            kind = _KEYS[f"lora_{leaf}"]
            modules.setdefault(name, {})[kind] = tensor.flatten() if kind in "Em" else tensor
    emptied = {name for name, tensors in modules.items() if "A" in tensors and tensors["A"].shape[:1] == (0,)}
    modules = {name: tensors for name, tensors in modules.items() if name not in emptied}
    _check(folder, config, modules)
    return Adapter(folder, config, modules, heads, frozenset(emptied))


def _tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{folder / WEIGHTS} is damaged: {error}.") from error
    if odd := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise AdapterError(f"{folder / WEIGHTS} holds values that are not finite, in {odd[0]}.")
    return tensors


def _check(folder: Path, config: Mapping[str, Any], modules: Mapping[str, Mapping[str, Tensor]]) -> None:
    kinds = {frozenset(tensors) for tensors in modules.values()}
    expected = "ABE" if config["peft_type"] == "ADALORA" else "ABm" if config.get("use_dora") else "AB"
    if kinds != {frozenset(expected)}:
        found = " or ".join("+".join(sorted(kind)) for kind in kinds) or "none"
        raise AdapterError(f"{folder}: each module should have tensors {'+'.join(expected)}, found {found}.")
    for name, tensors in modules.items():
        _check_shapes(folder, config, name, tensors)


def _check_shapes(folder: Path, config: Mapping[str, Any], name: str, tensors: Mapping[str, Tensor]) -> None:
    """Whether the tensors of a module agree with each other and with the rank in the settings."""
    shapes = {key: tuple(t.shape) for key, t in tensors.items()}
    odd = [key for key, t in tensors.items() if t.ndim != (2 if key in "AB" else 1)]
    if odd or not all(t.is_floating_point() for t in tensors.values()):
        kinds = ", ".join(f"{key} {shapes[key]} {t.dtype}" for key, t in tensors.items())
        raise AdapterError(f"{folder}: A and B of {name} should be matrices of floats, found {kinds}.")
    rank = shapes["A"][0]
    if shapes["B"][1] != rank or shapes.get("E", (rank,)) != (rank,):
        raise AdapterError(f"{folder}: ranks of {name} disagree: {shapes}.")
    if config["peft_type"] == "LORA" and rank != expected_rank(config, name):
        raise AdapterError(
            f"{folder}: {name} should have rank {expected_rank(config, name)}, as its settings say, but its "
            f"tensors have rank {rank}."
        )


def _exactly(values: Mapping[str, Any]) -> dict[str, Any]:
    """Patterns that match one module name each."""
    return {re.escape(name): value for name, value in values.items()}


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
        for parameter, key in _peft_of(adapter.delta).items():
            target = getattr(held.delta, parameter)[i]
            _copy(target, adapter.modules[name][key], f"{name} {key}", adapter.folder)
    own = head_tensors(attached, k)
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
