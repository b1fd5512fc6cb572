"""W&B beside the run folders of a study: how the two differ, and W&B brought up to the folders.

Nothing is ever logged twice: what the server has is read row by row, and only what it lacks is added, under a
W&B run with the run's own id. W&B takes no row back, so rows that it has too much are named and stay.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.record import RunFolder, read
from experiments.spec import RunSpec
from experiments.tracking import _log, _session
from experiments.tracking._base import Notify, labels_of
from experiments.tracking._rows import Difference, compare_rows, equal_values, local_rows
from experiments.tracking._server import Held, Server
from experiments.tracking.wandb import project_of

PATIENCE = 10.0  # seconds that a server may take to show what it took


@dataclass(frozen=True)
class Comparison:
    """How W&B's copy of a run differs from the run's own files."""

    rows: Difference
    faults: list[str] = field(default_factory=list)  # in plain words: what else differs and can be repaired
    doubt: str = ""  # why the copy could not be read in full

    @property
    def lacks(self) -> bool:
        """Whether something is to be added."""
        return bool(self.rows.missing or self.faults)

    @property
    def same(self) -> bool:
        """Whether nothing differs at all."""
        return not (self.lacks or self.doubt or self.rows.describe())

    def describe(self) -> str:
        """The differences in a line; "in step" where there are none."""
        return (
            ", ".join(part for part in (self.rows.describe(), *self.faults, self.doubt) if part) or "in step"
        )


class Logs:
    """The copy in the logs that W&B's client keeps in the run folders, for runs that were never online."""

    def compare(self, folder: RunFolder, spec: RunSpec) -> Comparison:
        """How the logs of a run differ from its history; all of them together hold each row once."""
        rows = compare_rows(local_rows(folder), _log.rows(folder.path))
        return Comparison(rows, [] if _log.logs(folder.path) else ["W&B kept no log"])


class Mirror:
    """The copy on the server.

    Args:
        project: For all runs; None for each run's own, see `experiments.tracking.wandb`.
        entity: Likewise; None for the one that the run named, else the account's default.
        timeout: Seconds to wait for the server.
        notify: Takes a line for the person watching.

    Raises:
        UserError: There is no account, or the server does not answer.
    """

    def __init__(self, *, project: str | None, entity: str | None, timeout: float, notify: Notify):
        self.project = project
        self.entity = entity
        self.timeout = timeout
        self.notify = notify
        self._server = Server(timeout)

    def compare(self, folder: RunFolder, spec: RunSpec) -> Comparison:
        """How the server's copy of a run differs, after a wait for what it is still taking in."""
        local = local_rows(folder)
        held = self._server.held(*self._place(spec), folder.path.name, patience=PATIENCE)
        if held is None:
            return Comparison(compare_rows(local, []), ["W&B has no such run"])
        doubt = ""
        if not held.complete:
            doubt = (
                f"W&B took {held.lines} rows and shows {len(held.rows)} of them so far: compare again later"
            )
        return Comparison(compare_rows(local, held.rows), _faults(folder, held), doubt)

    def bring_up(self, folder: RunFolder, spec: RunSpec) -> Comparison:
        """Add what the server lacks of a run; how the two differ afterwards.

        Rows that somebody else added since the comparison are seen when the run is opened. The
        caller sees to it that nobody logs the run from then on.
        """
        entity, project = self._place(spec)
        arguments = _session.arguments_of(
            folder.path.name,
            spec.as_record(),
            labels=labels_of(spec),
            folder=folder.path,
            project=project,
            entity=entity,
        )
        session = _session.begin(arguments, mode="online", timeout=self.timeout, notify=self.notify)
        session.end(status_of(folder))
        _log.mark(_log.logs(folder.path))
        deadline = time.monotonic() + PATIENCE
        while (after := self.compare(folder, spec)).lacks and time.monotonic() < deadline:
            time.sleep(PATIENCE / 8)  # a server may take a moment to show a new summary or state
        return after

    def _place(self, spec: RunSpec) -> tuple[str | None, str]:
        """Entity and project of a run."""
        options: Mapping[str, Any] = spec.tracker if spec.tracker.get("name") == "wandb" else {}
        project = self.project or options.get("project") or project_of({"study": spec.study})
        return self.entity or options.get("entity"), str(project)


def status_of(folder: RunFolder) -> str:
    """The record's status; a run without a record was interrupted."""
    record = read(folder.path)
    return str(record["status"]) if record else "preempted"


def has_begun(folder: RunFolder) -> bool:
    """Whether a run has left anything that W&B could show."""
    return folder.history.exists() or folder.record.exists()


def _faults(folder: RunFolder, held: Held) -> list[str]:
    """What differs beside the rows: the state in which the run ended, and the summary."""
    status = status_of(folder)
    state = "failed" if _session.exit_code(status) else "finished"
    found = [] if held.state == state else [f"state {held.state} instead of {state}"]
    expected = _session.expected_summary(folder, status)
    differing = [key for key, value in expected.items() if not equal_values(value, held.summary.get(key))]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        found.append(f"summary of {', '.join(differing[:3])}{more}")
    return found
