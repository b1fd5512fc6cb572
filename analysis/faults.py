"""What makes a record unusable. Nothing is repaired: a record is used as it is, or named and left out."""

import math
from typing import Any

from experiments import record as records

_NEEDED = ("variant", "model", "dataset", "seed")


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
    missing = [key for key in _NEEDED if key not in spec]
    if missing:
        return f"the spec lacks {', '.join(missing)}"
    if not isinstance(spec["seed"], int):
        return f"the seed {spec['seed']!r} is no whole number"
    if content.get("status") not in records.STATUSES:
        return f"status {content.get('status')!r} is none of {', '.join(records.STATUSES)}"
    for part in ("metrics", "cost"):
        for key, value in (content.get(part) or {}).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                return f"{part} {key} is {value!r}, which is no finite number"
    if content["status"] == "completed":
        return _fault_of_result(content)
    return None


def _fault_of_result(content: dict[str, Any]) -> str | None:
    primary = content.get("primary")
    if (
        not isinstance(primary, dict)
        or primary.get("goal") not in ("max", "min")
        or not primary.get("metric")
    ):
        return "the record does not say its primary metric and whether more or less of it is better"
    metric = primary["metric"]
    if not any(f"{split}/{metric}" in content.get("metrics", {}) for split in ("test", "validation")):
        return f"the run is completed, yet holds neither test/{metric} nor validation/{metric}"
    return None
