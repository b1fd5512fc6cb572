"""Failures that are one and the same: when the first runs of a sweep all fail so, the next would too."""

import re
from collections.abc import Iterable

ENOUGH = 3  # the first so many failing alike means that the next would too
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+(?:\.\d+)?")  # an address, a size: what differs from run to run


def likeness(run_id: str, status: str, reason: str) -> str:
    """What failures of one cause have in common: the kind and the text of the error without its numbers.

    Where memory ran out the text tells sizes and little else, in units that change with them.

    Args:
        run_id: The run, whose name may stand in the text.
        status: Its status.
        reason: The kind and the message of its error.
    """
    return status if status == "oom" else _NUMBER.sub("#", reason.replace(run_id, "..."))


def cause(endings: Iterable[tuple[str, dict]]) -> str | None:
    """Why all runs that have ended failed, if at least `ENOUGH` did and all of them alike; else None.

    Args:
        endings: Runs that have ended, each with its record; no more of them are asked for than it takes.
    """
    alike: set[str] = set()
    reasons: list[str] = []
    for run_id, found in endings:
        if found["status"] not in ("failed", "oom"):
            return None
        reasons.append(words(found.get("error", {})))
        alike.add(likeness(run_id, found["status"], reasons[-1]))
        if len(alike) > 1:
            return None
    return reasons[-1] if len(reasons) >= ENOUGH else None


def words(error: dict) -> str:
    """An error of a record, or of what a worker said, in a line."""
    return ": ".join(str(error[key]) for key in ("kind", "message") if key in error)
