"""What a tracker is, and the wrapper that keeps its troubles away from the run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
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


class Background(Tracker):
    """Makes the calls of a tracker in a thread of its own, in their order: the run waits for no disk or lock.

    What a call raises is raised again by a later one, and nothing more is called. `finish` waits for all of
    them, up to `patience` seconds, then it is a UserError.
    """

    def __init__(self, tracker: Tracker, *, patience: float = 30.0):
        self._tracker = tracker
        self._patience = patience
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def start(self, run_id: str, spec: Mapping[str, Any], *, labels: Labels, folder: Path) -> None:
        """Begin one run."""
        if self._thread is None:
            self._thread = Thread(target=self._work, daemon=True)  # one that hangs keeps no process alive
            self._thread.start()
        self._pass(lambda: self._tracker.start(run_id, spec, labels=labels, folder=folder))

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """Show one row of the history."""
        row = dict(row)
        self._pass(lambda: self._tracker.log(row, step))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Show final values."""
        values = dict(values)
        self._pass(lambda: self._tracker.summary(values))

    def finish(self, status: str) -> None:
        """End the run."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._pass(lambda: self._tracker.finish(status))
        self._calls.put(None)
        thread.join(self._patience)
        if thread.is_alive():
            raise UserError(f"it did not take everything within {self._patience:g} s")
        if self._error is not None:
            raise self._error

    def _pass(self, call: Callable[[], None]) -> None:
        if self._error is not None:
            raise self._error
        self._calls.put(call)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # for whoever calls next, see _pass
                self._error = error
                return


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
