"""What tells cells apart that a table's usual columns show alike."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def distinguishing(specs: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> list[str]:
    """The dotted keys in which cells differ that are equal in all keys that are shown.

    Args:
        specs: The spec of each cell, as a record has it.
        shown: Keys that have a column.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for spec in specs:
        groups[tuple(str(spec.get(key)) for key in shown)].append(dict(_flat(spec)))
    found: dict[str, None] = {}
    for group in groups.values():
        for key in dict.fromkeys(key for spec in group for key in spec):
            if len({str(spec.get(key)) for spec in group}) > 1 and key not in _OF_A_RUN:
                found[key] = None
    return list(found)


def value_at(spec: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    part, _, last = key.rpartition(".")
    return (spec.get(part) or {}).get(last) if part else spec.get(key)


_OF_A_RUN = ("seed", "repeat", "study", "signatures", "train.threads", "model_options.path")


def _flat(spec: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in spec.items():
        if key == "tracker":
            continue
        if isinstance(value, Mapping) and not prefix:
            yield from _flat(value, f"{key}.")
        else:
            yield f"{prefix}{key}", value
