"""How runs that left no result ended: a status and a reason, their records, and which failures are the same.

When the first runs of a sweep all fail the same way, the next would, too.
"""

import re
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.config.settings import Terms
from experiments.config.short import command_of
from experiments.errors import UserError, death
from experiments.provenance import collect
from experiments.record import FINISHED, RunFolder, read
from experiments.sweep.lease import acquire, leases
from experiments.sweep.pool import Outcome, PlannedRun

ENOUGH = 3  # the first so many failing the same way means that the next would, too
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+(?:\.\d+)?")  # an address, a size: what differs from run to run


def fingerprint(run_id: str, status: str, reason: str) -> str:
    """What failures of one cause have in common: the kind and the text of the error without its numbers.

    Where memory ran out the text tells sizes and little else, in units that change with them.

    Args:
        run_id: The run, whose name may stand in the text.
        status: Its status.
        reason: The kind and the message of its error.
    """
    return status if status == "oom" else _NUMBER.sub("#", reason.replace(run_id, "..."))


def common_cause(endings: Iterable[tuple[str, dict]]) -> str | None:
    """Why all runs that have ended failed, if at least `ENOUGH` did and all in the same way; else None.

    Args:
        endings: Runs that have ended, each with its record; no more of them are read than it takes.
    """
    seen: set[str] = set()
    reasons: list[str] = []
    for run_id, found in endings:
        if found["status"] not in ("failed", "oom"):
            return None
        reasons.append(error_text(found.get("error", {})))
        seen.add(fingerprint(run_id, found["status"], reasons[-1]))
        if len(seen) > 1:
            return None
    return reasons[-1] if len(reasons) >= ENOUGH else None


def error_text(error: dict) -> str:
    """An error of a record, or of what a worker said, in a line."""
    return ": ".join(str(error[key]) for key in ("kind", "message") if key in error)


def settle(outcome: Outcome, study: Path, terms: Terms) -> tuple[str, str] | None:
    """The status of a run and the reason, if it failed; None if another process has taken it over.

    A run whose worker died or was stopped as too slow gets its record here, under a lease: where somebody
    finished the run meanwhile, theirs stands.
    """
    event = outcome.event
    if event["event"] == "interrupted":
        return "preempted", ""
    if event["event"] == "finished":
        return event["status"], error_text(event.get("error", {}))
    error = _timeout(terms) if event["event"] == "late" else _death(event)
    folder = RunFolder(study / outcome.run.run_id)
    try:
        lease = acquire(leases(study), outcome.run.run_id)
        if lease is None:
            return None
        with lease:
            found = read(folder.path)
            if found is None or found["status"] not in FINISHED:
                found = _record(outcome.run, study, folder, error)
                folder.write_record(found)
            lease.remove()
    except UserError as unwritten:
        return "failed", f"{error_text(error)} (no record was written: {unwritten})"
    if found["status"] in FINISHED:
        return found["status"], ""
    return "failed", error_text(error)


def _record(run: PlannedRun, study: Path, folder: RunFolder, error: dict[str, str]) -> dict:
    return {
        "run_id": run.run_id,
        "study": study.name,
        "status": "failed",
        "spec": run.spec.as_record(),
        "command": command_of(run.spec),
        "env": collect(),
        "error": {**error, "repeat": folder.repeat},
    }


def _timeout(terms: Terms) -> dict[str, str]:
    return {
        "kind": "timeout",
        "message": f"took longer than time_limit={terms.time_limit:g} minutes and was stopped. With a higher "
        f"limit the same command goes on from its last checkpoint",
    }


def _death(event: Mapping[str, Any]) -> dict[str, str]:
    unknown = event["code"] == -signal.SIGKILL and event.get("oom") is None
    hint = " (out of memory, most often)" if unknown else ""
    return {"kind": "killed", "message": f"the worker process died: {death(event['code'])}{hint}"}
