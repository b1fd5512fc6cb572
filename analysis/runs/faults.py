"""What the report could not use as it is."""

from typing import NamedTuple


class Problem(NamedTuple):
    """A folder that the report could not use as it is."""

    run: str
    what: str


class NotFinite(Exception):
    """A record that holds NaN or Infinity, which JSON does not have."""


def refuse_constant(name: str) -> float:
    """For json.loads: NaN and Infinity are refused, not read."""
    raise NotFinite(name)
