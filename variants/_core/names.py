"""Values by module or layer: "query=4,layer.11.*=16" is 4 for every query and 16 for all of block 11.

A pattern is a regular expression that the end of a module's name matches, from a dot on, as PEFT reads its
own; the first that matches counts. Needs no torch: by this rule a run is counted before it starts.
"""

import difflib
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

Patterns = dict[str, float]


def read_patterns(option: str, given: object) -> Patterns:
    """The patterns of an option with their values: of a text, a mapping, or None.

    Raises:
        ValueError: It is not of the form pattern=number,pattern=number.
    """
    pairs: list[tuple[str, Any]] = []
    if isinstance(given, Mapping):
        pairs += given.items()
    elif given is not None:
        parts = (part.rpartition("=") for part in str(given).split(","))
        pairs += [(pattern.strip(), value) for pattern, _, value in parts]
    try:
        patterns = {pattern: float(value) for pattern, value in pairs if re.compile(pattern)}
        if all(pattern and math.isfinite(value) for pattern, value in patterns.items()):
            return patterns
    except (ValueError, TypeError, re.error):
        pass  # told below, like a pattern that is empty
    raise ValueError(
        f"{option} {given!r} cannot be read: write patterns of module names and numbers, as query=4,value=16."
    )


def by_pattern(patterns: Patterns, name: str, otherwise: float) -> float:
    """The value of the first pattern that matches the end of a name."""
    matching = (value for pattern, value in patterns.items() if _matches(pattern, name))
    return next(matching, otherwise)


def check_used(option: str, patterns: Patterns, names: Collection[str]) -> None:
    """Refuse a pattern that matches none of the adapted maps: it would change nothing, unnoticed."""
    for pattern in patterns:
        if not any(_matches(pattern, name) for name in names):
            leaves = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
            near = difflib.get_close_matches(pattern, leaves, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{option}: {pattern!r} matches none of the adapted maps, which end in "
                f"{', '.join(leaves)}.{hint}"
            )


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(rf"(.*\.)?({pattern})", name) is not None
