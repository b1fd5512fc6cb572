"""TensorBoard. One folder of events per run, `runs/<study>/<run_id>/tensorboard/`, with steps of our own.

`tensorboard --logdir runs/<study>` shows a study; that is a package of its own. The history becomes scalars,
the spec a text and, once the run has ended, hyperparameters beside the final metrics.

A run that goes on begins its events anew from history.jsonl, from which a resume has cut the steps that it
repeats: nothing is there twice, nor missing after a kill. The mark of a restart at step 0 has a TensorBoard
that is open forget the earlier events. tensorboardX's SummaryWriter is passed over: its queue of ten blocks
whoever logs, for good once its thread has died of a full disk. Its file writer raises instead.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.config.groups import leaves
from experiments.errors import UserError
from experiments.record import FINISHED, RunFolder
from experiments.tracking._base import Background, Labels, Notify, Tracker
from experiments.tracking._rows import STEP, Identity, Row, identity, local_rows, shown

PACKAGE = "tensorboardX"
_INTERVAL = 5.0  # seconds between two syncs of the file


@dataclass
class TensorBoard(Tracker):
    """The events of one run."""

    _folder: RunFolder = field(init=False)
    _spec: dict[str, Any] = field(default_factory=dict, init=False)
    _file: Any = field(default=None, init=False)  # tensorboardX's EventsWriter, from the first row on
    _known: set[Identity] = field(default_factory=set, init=False)
    _last: int = field(default=0, init=False)
    _summary: dict[str, Any] = field(default_factory=dict, init=False)
    _synced: float = field(default=0.0, init=False)

    def start(self, run_id: str, spec: Mapping[str, Any], *, labels: Labels, folder: Path) -> None:
        """Begin the run, or go on with it; ImportError without the package."""
        import tensorboardX  # noqa: F401

        self._close()
        self._folder, self._spec = RunFolder(folder), {**spec, "run_id": run_id, "cell": labels.group}

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """Add one row, behind those that the history has already."""
        self._add([shown({**row, "step": step})])
        if time.monotonic() - self._synced > _INTERVAL:
            self._file.flush()
            self._synced = time.monotonic()

    def summary(self, values: Mapping[str, Any]) -> None:
        """Keep final values for the end."""
        self._summary = {key: value for key, value in values.items() if _is_number(value)}

    def finish(self, status: str) -> None:
        """Add what is missing of the history, then the final values where the run has some."""
        self._add(local_rows(self._folder))
        if status in FINISHED and self._summary:
            from tensorboardX.summary import hparams

            self._write(_scalars(self._summary), self._last)
            spec = {key: json.dumps(v) if isinstance(v, list) else v for key, v in leaves(self._spec)}
            for summary in hparams(spec, self._summary):
                self._write(summary, 0)
        self._close()

    def _add(self, rows: Iterable[Row]) -> None:
        if self._file is None:
            self._open()
            rows = [*local_rows(self._folder), *rows]
        for row in rows:
            if identity(row) not in self._known:
                self._known.add(identity(row))
                self._last = max(self._last, row[STEP])
                values = {key: value for key, value in row.items() if key != STEP and _is_number(value)}
                self._write(_scalars(values), row[STEP])

    def _open(self) -> None:
        """Begin the events anew."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import text

        folder = self._folder.path / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        earlier = list(folder.glob("events.out.tfevents.*"))
        for path in earlier:
            os.truncate(
                path, 0
            )  # a TensorBoard that is open reads on from it and would stay at a deleted one
        self._file = EventsWriter(
            str(folder / "events"), f".{len(earlier)}"
        )  # the name else only has seconds
        self._known, self._last = set(), 0
        restart = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(wall_time=time.time(), step=0, session_log=restart))
        self._write(text("spec", f"```json\n{json.dumps(self._spec, indent=1)}\n```"), 0)

    def _write(self, summary: Any, step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._file.write_event(Event(wall_time=time.time(), step=step, summary=summary))

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _scalars(values: Mapping[str, Any]) -> Any:
    from tensorboardX.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=key, simple_value=value) for key, value in values.items()])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def make(options: Mapping[str, Any], notify: Notify) -> Tracker:
    """A tracker; there are no options."""
    for key in options:
        raise UserError(f"tracker tensorboard has no option {key!r}: it has none.")
    return Background(TensorBoard())
