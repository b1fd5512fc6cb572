"""Values by module or layer: "query=4,layer.11.*=16" is 4 for every query and 16 for all of block 11.

A pattern is a regular expression that the end of a module's name matches, from a dot on, as PEFT reads its
own; the first that matches counts.
"""

import difflib
import re
from collections.abc import Collection, Mapping

Patterns = dict[str, float]


def read_patterns(option: str, given: str | Mapping[str, float] | None) -> Patterns:
    """The patterns of an option with their values.

    Raises:
        ValueError: It is not of the form pattern=number,pattern=number.
    """
    pairs: list[tuple[str, str | float]] = []
    if isinstance(given, str):
        parts = (part.rpartition("=") for part in given.split(","))
        pairs += [(pattern.strip(), value) for pattern, _, value in parts]
    elif given:
        pairs += given.items()
    try:
        if all(pattern and re.compile(pattern) for pattern, _ in pairs):
            return {pattern: float(value) for pattern, value in pairs}
    except (ValueError, re.error):
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
