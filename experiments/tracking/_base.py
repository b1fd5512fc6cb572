"""What a tracker is, and the wrapper that keeps its troubles away from the run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.record import History, RunFolder
from experiments.spec import RunSpec

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Labels:
    """How a run is filed, so that it is found among others."""

    group: str  # its cell, without the seed
    name: str
    tags: Sequence[str] = ()
    phase: str = "run"


def labels_of(spec: RunSpec) -> Labels:
    """How a run of ours is filed."""
    cell = spec.cell()
    tags = (spec.study, spec.variant, spec.dataset, spec.model)
    return Labels(cell, f"{cell}-s{spec.seed}", tags, spec.phase)


class Tracker:
    """The calls that one run makes, in their order. This one tracks nothing; others do it their way."""

    def start(self, run_id: str, spec: Mapping[str, Any], *, labels: Labels, folder: Path) -> None:
        """Begin one run: `spec` as in the record, `folder` its own."""

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """Show one row of the history."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Show final values, e.g. the record's metrics and cost."""

    def finish(self, status: str) -> None:
        """End the run with the record's status."""


class BestEffort(Tracker):
    """Passes every call on; the first exception is reported, noted in events.jsonl and ends the tracking."""

    def __init__(self, tracker: Tracker, *, name: str, notify: Notify):
        self._tracker = tracker
        self._name = name
        self._notify = notify
        self._folder: Path | None = None
        self._given_up = False

    def start(self, run_id: str, spec: Mapping[str, Any], *, labels: Labels, folder: Path) -> None:
        """Begin one run."""
        self._folder = folder
        self._attempt(lambda: self._tracker.start(run_id, spec, labels=labels, folder=folder))

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """Show one row of the history."""
        self._attempt(lambda: self._tracker.log(row, step))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Show final values."""
        self._attempt(lambda: self._tracker.summary(values))

    def finish(self, status: str) -> None:
        """End the run."""
        self._attempt(lambda: self._tracker.finish(status))

    def _attempt(self, call: Callable[[], None]) -> None:
        if self._given_up:
            return
        try:
            call()
        except Exception as error:  # whatever a client may raise: the run is worth more than its picture
            self._given_up = True
            self._report(error)

    def _report(self, error: Exception) -> None:
        detail = reason(error)
        self._notify(
            f"tracker {self._name} stopped ({detail}). The run goes on; its own files stay complete."
        )
        if self._folder is not None:
            note_event(self._folder, f"tracker {self._name} stopped", detail=detail, notify=self._notify)


def reason(error: Exception) -> str:
    """An exception in one short line; the type is named where the message is not our own."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:300]


def note_event(folder: Path, event: str, *, detail: str | None, notify: Notify) -> None:
    """Add one row to the run's events.jsonl; where even that fails, say so and go on."""
    row = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, "detail": detail}
    try:
        with History(RunFolder(folder).events) as events:
            events.append(row)
    except Exception as error:
        notify(f"events.jsonl was not written ({error})")
