"""The form of a record: what makes a parsed record.json unusable. Standard library only.

Nothing is repaired: a record is used as it is, or named and left out.
"""

import math
from typing import Any

SCHEMA = 1
STATUSES = ("completed", "diverged", "oom", "failed", "preempted")

_NEEDED = ("variant", "model", "dataset", "seed")
_SPEC_MAPPINGS = ("train", "variant_axes", "variant_options", "model_options", "dataset_options")
_SPEC_NUMBERS = ("r", "alpha", "lr", "matched", "halving")
_MAPPINGS = (
    "metrics", "cost", "data", "env", "files", "primary", "model", "adapter", "task", "start", "pack",
)  # fmt: skip
_TEXTS = ("run_id", "study", "command", "phase", "optimiser")
_LISTS = ("deviations", "notes")


def fault(content: Any) -> str | None:
    """What makes a parsed record unusable for a comparison, or None."""
    if not isinstance(content, dict) or "schema" not in content:
        return "record.json does not say its schema"
    if content["schema"] != SCHEMA:
        return f"record.json has schema {content['schema']!r}, this version reads schema {SCHEMA}"
    spec = content.get("spec")
    if not isinstance(spec, dict) or not isinstance(content.get("run_id"), str):
        return "record.json lacks run_id or spec"
    if content.get("status") not in STATUSES:
        return f"status {content.get('status')!r} is none of {', '.join(STATUSES)}"
    wrong = _fault_of_spec(spec) or malformed(content)
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
        if spec.get(key) is not None and not isinstance(spec[key], dict):
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


def malformed(content: dict[str, Any]) -> str | None:
    """What of a parsed record is of another type than a run writes, or None; it may lack anything."""
    if not isinstance(content.get("spec", {}), dict):
        return f"spec is no mapping but {content['spec']!r}"
    for key in _MAPPINGS:
        if content.get(key) is not None and not isinstance(content[key], dict):
            return f"{key} is no mapping but {content[key]!r}"
    versions = (content.get("env") or {}).get("versions")
    if versions is not None and not isinstance(versions, dict):
        return "the versions in env are no mapping"
    error = content.get("error") or {}
    if not isinstance(error, dict | str):
        return "error is neither a mapping nor text"
    for key in _LISTS:
        if content.get(key) is not None and not _are_texts(content[key]):
            return f"{key} is no list of texts"
    for key in _TEXTS:
        if not isinstance(content.get(key, ""), str):
            return f"{key} is {content[key]!r}, which is no text"
    for part in ("files", "start"):
        if not _are_texts([*(content.get(part) or {}).values()]):
            return f"{part} holds what is no checksum"
    if content.get("pack") is not None and not _are_texts(content["pack"].get("runs")):
        return "the runs of pack are no list of names"
    for part in ("metrics", "cost"):
        for key, value in (content.get(part) or {}).items():
            if not _is_number(value) and not (part == "cost" and value is None):
                return f"{part} {key} is {value!r}, which is no finite number"
    for key, value in (content.get("data") or {}).items():
        if key.endswith("_sha256") and not isinstance(value, str):
            return f"data {key} is {value!r}, which is no checksum"
        if key.endswith("_rows") and value is not None and not _is_number(value):
            return f"data {key} is {value!r}, which is no finite number"
    return None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


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
