"""Trackio. One Trackio run per run, of the run's own id: name and group as in W&B, steps of our own.

    options   project   null: the study

The project lies where Trackio keeps its own, in TRACKIO_DIR: `trackio show` shows it, `trackio sync` copies
it to a Space. Nothing is sent from here. `trackio.init` is not used: where somebody is logged in it asks the
Hub for the name, for as long as that takes, and it ends the run that is open, of which a pack has several. So
rows go where `Run.log` would put them, `SQLiteStorage.bulk_log`, each under an id that is the same whenever
it is logged: Trackio keeps the first of equal ids. A resumed run adds what is new, and `finish` what a kill
left out.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.record import RunFolder
from experiments.tracking import _session
from experiments.tracking._base import Background, Labels, Notify, Tracker
from experiments.tracking._rows import STEP, Row, identity, local_rows, shown

PACKAGE = "trackio"
_INTERVAL = 2.0  # seconds between two transactions; each takes some milliseconds


@dataclass
class Trackio(Tracker):
    """One Trackio run."""

    project: str | None = None
    _run: dict[str, str] = field(default_factory=dict, init=False)
    _config: dict[str, Any] = field(default_factory=dict, init=False)
    _folder: RunFolder = field(init=False)
    _rows: list[Row] = field(default_factory=list, init=False)
    _summary: dict[str, Any] = field(default_factory=dict, init=False)
    _written: float = field(default=0.0, init=False)

    def start(self, run_id: str, spec: Mapping[str, Any], *, labels: Labels, folder: Path) -> None:
        """Begin the run, or go on with it; ImportError without the package."""
        import trackio  # noqa: F401 - a second the first time

        self._run = {"project": self.project or str(spec["study"]), "run": labels.name, "run_id": run_id}
        created = datetime.now(UTC).isoformat()
        self._config = {**spec, "run_id": run_id, "_Group": labels.group, "_Created": created}
        self._folder, self._rows = RunFolder(folder), []

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """Log one row under our own step; the rows of some seconds are written together."""
        self._rows.append(shown({**row, "step": step}))
        if time.monotonic() - self._written > _INTERVAL:
            self._write(self._rows)
            self._rows, self._written = [], time.monotonic()

    def summary(self, values: Mapping[str, Any]) -> None:
        """Keep final values: they become a row of the last step, as Trackio has no summary."""
        self._summary = dict(values)

    def finish(self, status: str) -> None:
        """Write what Trackio lacks of the history, and how the run ended."""
        rows = local_rows(self._folder) or self._rows
        if rows and self._summary:
            rows = [*rows, {**self._summary, STEP: max(row[STEP] for row in rows)}]
        self._config |= {**_session.provenance(self._folder), "status": status}
        self._write(rows)

    def _write(self, rows: Sequence[Row]) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        SQLiteStorage.bulk_log(
            **self._run,
            metrics_list=[{key: value for key, value in row.items() if key != STEP} for row in rows],
            steps=[row[STEP] for row in rows],
            log_ids=[f"{self._run['run_id']} {identity(row)}" for row in rows],
            config=self._config,
        )


def make(options: Mapping[str, Any], notify: Notify) -> Tracker:
    """A tracker from the options in this module's docstring; null means the default."""
    for key in options:
        if key != "project":
            raise UserError(f"tracker trackio has no option {key!r}. It has: project.")
    return Background(Trackio(options.get("project")))
