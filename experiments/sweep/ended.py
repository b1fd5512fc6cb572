"""How a cell ended, as the engine sees it: a status and a reason, with a record for those that left none."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.config.settings import Terms
from experiments.errors import UserError
from experiments.provenance import collect
from experiments.record import FINISHED, RunFolder, read
from experiments.sweep.alike import words
from experiments.sweep.lease import claim
from experiments.sweep.pool import Cell, Outcome


def settle(outcome: Outcome, study: Path, terms: Terms) -> tuple[str, str] | None:
    """The status of a run and the reason, if it failed; None if another process has taken it over.

    A run whose worker died or was stopped as too slow gets its record here, under a claim: where somebody
    finished the run meanwhile, theirs stands.
    """
    event = outcome.event
    if event["event"] == "interrupted":
        return "preempted", ""
    if event["event"] == "finished":
        return event["status"], words(event.get("error", {}))
    error = _timeout(terms) if event["event"] == "late" else _death(event)
    folder = RunFolder(study / outcome.cell.run_id)
    try:
        held = claim(study / ".claims", outcome.cell.run_id)
        if held is None:
            return None
        with held:
            found = read(folder.path)
            if found is None or found["status"] not in FINISHED:
                found = _record(outcome.cell, study, folder, error)
                folder.write_record(found)
            held.remove()
    except UserError as unwritten:
        return "failed", f"{words(error)} (no record was written: {unwritten})"
    if found["status"] in FINISHED:
        return found["status"], ""
    return "failed", words(error)


def _record(cell: Cell, study: Path, folder: RunFolder, error: dict[str, str]) -> dict:
    return {
        "run_id": cell.run_id,
        "study": study.name,
        "status": "failed",
        "spec": cell.spec.as_record(),
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
    code = event["code"]
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    unknown = code == -signal.SIGKILL and event.get("oom") is None
    hint = " (out of memory, most often)" if unknown else ""
    return {"kind": "killed", "message": f"the worker process died: {how}{hint}"}
