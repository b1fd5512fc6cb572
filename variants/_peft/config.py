"""The settings beside an adapter of PEFT: refused where they are malformed or not known here."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from variants._core.names import by_pattern

CONFIG = "adapter_config.json"
_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # of A and B; others change the base as well
_EXTRAS = (  # each means another forward pass, or trains more than A and B
    "target_parameters", "layer_replication", "trainable_token_indices", "lora_bias", "use_qalora",
    "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config",
    "velora_config",
)  # fmt: skip


class AdapterError(ValueError):
    """A folder that is no adapter, or not one for this model."""


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of an adapter folder; AdapterError with what was expected and what was found."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise AdapterError(f"{folder / CONFIG} cannot be read: {error!r}.") from error
    if not isinstance(config, dict):
        raise AdapterError(
            f"{folder / CONFIG} should hold settings by name, found a {type(config).__name__}."
        )
    _check_kind(folder, config)
    _check_values(folder, config)
    return config


def expected_rank(config: Mapping[str, Any], name: str) -> int:
    """The rank of a module by the settings of a LoRA."""
    return int(by_pattern(config.get("rank_pattern") or {}, name, config["r"]))


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    if (start := config.get("init_lora_weights")) not in _STARTS:
        raise AdapterError(
            f"{folder}: init_lora_weights {start!r} has changed the base as well, and the adapter does not "
            "hold how. Have PEFT convert it to a plain LoRA: save_pretrained with "
            "path_initial_model_for_weight_conversion."
        )
    kind, bias = config.get("peft_type"), config.get("bias", "none")
    odd = [name for name in _EXTRAS if config.get(name)]
    if kind not in ("LORA", "ADALORA") or bias != "none" or odd:
        what = ", ".join([f"peft_type {kind!r}", f"bias {bias!r}", *odd])
        raise AdapterError(
            f"{folder}: {what}. LORA and ADALORA with bias 'none' and without extras can be read."
        )


def _check_values(folder: Path, config: Mapping[str, Any]) -> None:
    lora = config["peft_type"] == "LORA"
    expected: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "lora_alpha": ("a positive number", _is_positive),
        "r" if lora else "init_r": ("a whole number from 1 on", _is_rank),
        "alpha_pattern": ("positive numbers by patterns of names", lambda v: _are_patterns(v, _is_positive)),
        "target_modules": ("names of modules, or a regular expression", _are_modules),
        "exclude_modules": ("names of modules, or a regular expression", _are_modules),
        "layers_to_transform": ("numbers of layers", _are_layers),
    }
    if lora:  # AdaLoRA says under this name which triplets are left
        expected["rank_pattern"] = ("ranks by patterns of names", lambda v: _are_patterns(v, _is_rank))
    for name, (what, fits) in expected.items():
        if not fits(config.get(name)):
            raise AdapterError(f"{folder / CONFIG}: {name} should be {what}, found {config.get(name)!r}.")


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _is_rank(value: Any) -> bool:
    return type(value) is int and value >= 1


def _are_patterns(value: Any, fits: Callable[[Any], bool]) -> bool:
    return not value or (
        isinstance(value, dict) and all(_is_regex(key) and fits(v) for key, v in value.items())
    )


def _are_modules(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(name, str) for name in value)
    return value is None or (isinstance(value, str) and _is_regex(value))


def _are_layers(value: Any) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return value is None or all(type(number) is int for number in numbers)


def _is_regex(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True
