"""What makes a record unusable. Nothing is repaired: a record is used as it is, or named and left out."""

import math
from typing import Any, NamedTuple

from experiments import record as records

_NEEDED = ("variant", "model", "dataset", "seed")
_SPEC_MAPPINGS = ("train", "variant_axes", "variant_options", "model_options", "dataset_options")
_SPEC_NUMBERS = ("r", "alpha", "lr", "matched")
_MAPPINGS = ("metrics", "cost", "data", "env", "files", "primary")
_LISTS = ("deviations", "notes")


class Problem(NamedTuple):
    """A folder that the report could not use as it is."""

    run: str
    what: str


class NotFinite(Exception):
    """A record that holds NaN or Infinity, which JSON does not have."""


def refuse_constant(name: str) -> float:
    """For json.loads: NaN and Infinity are refused, not read."""
    raise NotFinite(name)


def fault(content: Any) -> str | None:
    """What makes a parsed record unusable, or None."""
    if not isinstance(content, dict) or "schema" not in content:
        return "record.json does not say its schema"
    if content["schema"] != records.SCHEMA:
        return f"record.json has schema {content['schema']!r}, this version reads schema {records.SCHEMA}"
    spec = content.get("spec")
    if not isinstance(spec, dict) or not isinstance(content.get("run_id"), str):
        return "record.json lacks run_id or spec"
    if content.get("status") not in records.STATUSES:
        return f"status {content.get('status')!r} is none of {', '.join(records.STATUSES)}"
    wrong = _fault_of_spec(spec) or _fault_of_types(content)
    if wrong or content["status"] != "completed":
        return wrong
    return _fault_of_result(content)


def _fault_of_spec(spec: dict[str, Any]) -> str | None:
    missing = [key for key in _NEEDED if key not in spec]
    if missing:
        return f"the spec lacks {', '.join(missing)}"
    if not isinstance(spec["seed"], int) or isinstance(spec["seed"], bool):
        return f"the seed {spec['seed']!r} is no whole number"
    for key in ("variant", "model", "dataset"):
        if not isinstance(spec[key], str):
            return f"the spec's {key} is {spec[key]!r}, which is no name"
    for key in _SPEC_MAPPINGS:
        if not isinstance(spec.get(key) or {}, dict):
            return f"the spec's {key} is {spec[key]!r}, which is no mapping"
    for key in _SPEC_NUMBERS:
        if spec.get(key) is not None and not _is_number(spec[key]):
            return f"the spec's {key} is {spec[key]!r}, which is no finite number"
    ratio = (spec.get("variant_options") or {}).get("init_r_ratio")
    if ratio is not None and not _is_number(ratio):
        return f"the spec's init_r_ratio is {ratio!r}, which is no finite number"
    if not isinstance(spec.get("repeat", 0), int):
        return f"the spec's repeat is {spec['repeat']!r}, which is no yes or no"
    tuned = spec.get("tuned") or []
    if not isinstance(tuned, list) or not all(isinstance(key, str) for key in tuned):
        return f"the spec's tuned is {tuned!r}, which is no list of keys"
    return None


def _fault_of_types(content: dict[str, Any]) -> str | None:
    for key in _MAPPINGS:
        if not isinstance(content.get(key) or {}, dict):
            return f"{key} is no mapping but {content[key]!r}"
    if not isinstance((content.get("env") or {}).get("versions") or {}, dict):
        return "the versions in env are no mapping"
    if not isinstance(content.get("error") or {}, dict | str):
        return "error is neither a mapping nor text"
    for key in _LISTS:
        if not isinstance(content.get(key) or [], list):
            return f"{key} is no list"
    if not isinstance(content.get("phase", ""), str):
        return f"phase is {content['phase']!r}, which is no text"
    for part in ("metrics", "cost"):
        for key, value in (content.get(part) or {}).items():
            if not _is_number(value) and not (part == "cost" and value is None):
                return f"{part} {key} is {value!r}, which is no finite number"
    for key, value in (content.get("data") or {}).items():
        if key.endswith("_rows") and value is not None and not _is_number(value):
            return f"data {key} is {value!r}, which is no finite number"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _fault_of_result(content: dict[str, Any]) -> str | None:
    primary = content.get("primary") or {}
    metric = primary.get("metric")
    if primary.get("goal") not in ("max", "min") or not metric or not isinstance(metric, str):
        return "the record does not say its primary metric and whether more or less of it is better"
    metrics = content.get("metrics") or {}
    if not any(f"{split}/{metric}" in metrics for split in ("test", "validation")):
        return f"the run is completed, yet holds neither test/{metric} nor validation/{metric}"
    return None
