"""Weights & Biases. One W&B run per run: group = the cell without its seed, id = run_id, steps of our own.

    options   mode      online | offline | disabled; null follows WANDB_MODE, else online
              project   null: WANDB_PROJECT, else the study
              entity    null: W&B's own default
              timeout   seconds to wait for the server, at the start and at the end of a run

W&B's files lie in the run's own folder, `runs/<study>/<run_id>/wandb/`, so that a run is moved or thrown away
whole. Whatever W&B missed, offline or through an outage, a kill or a full disk, is brought up from the run's
own files by `python -m experiments.sweep sync runs/<study>`.

Settings differ from W&B's defaults where those lose data: the log is flushed every 2 s (15 s by default, and
a kill loses what was not flushed), the exit code is given explicitly (a raised SystemExit would count as
success), waiting for a server is bounded, and `step=` is never passed (W&B drops rows whose step went back on
a resume). A server that does not answer is tried once per process; this run and the later ones go on offline.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from experiments.errors import UserError, did_you_mean, typed
from experiments.tracking import _session
from experiments.tracking._base import Labels, Notify, Tracker, note_event, reason
from experiments.tracking._rows import shown
from experiments.tracking._server import log_in

MODES = ("online", "offline", "disabled")


class _Server:
    """What this process knows of the server, shared by its runs."""

    unreachable: str | None = None  # the reason, once it did not answer
    announced: bool = False
    open_runs: int = 0


@dataclass
class Wandb(Tracker):
    """One W&B run."""

    notify: Notify
    mode: str | None = None
    project: str | None = None
    entity: str | None = None
    timeout: float = 30.0
    _open: _session.Session | None = field(default=None, init=False)

    def start(self, run_id: str, spec: Mapping[str, Any], *, labels: Labels, folder: Path) -> None:
        """Begin the W&B run, offline where the server does not answer.

        Another start of the same run, after memory ran out, goes on with what is open.
        """
        if self._open is not None:
            return
        arguments = _session.arguments_of(
            run_id,
            spec,
            labels=labels,
            folder=folder,
            project=self.project or project_of(spec),
            entity=self.entity,
        )
        mode = self.mode or os.environ.get("WANDB_MODE") or "online"
        self._open = (
            self._begin_online(arguments, folder) if mode == "online" else self._begin(arguments, mode)
        )
        _Server.open_runs += 1

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """Log one row under our own step, unless W&B has it from before an interruption."""
        if self._open is not None:
            self._open.log(shown({**row, "step": step}))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set final values."""
        if self._open is not None:
            self._open.run.summary.update(dict(values))

    def finish(self, status: str) -> None:
        """End the run; UserError when the server did not take everything in time."""
        session, self._open = self._open, None
        if session is None:
            return
        _Server.open_runs -= 1
        try:
            session.end(status)
        except TimeoutError as error:
            raise UserError(
                f"the server did not take everything within {self.timeout:g} s; later: "
                f"python -m experiments.sweep sync {typed(session.folder.path.parent)}"
            ) from error

    def _begin(self, arguments: Mapping[str, Any], mode: str) -> _session.Session:
        return _session.begin(arguments, mode=mode, timeout=self.timeout, notify=self.notify)

    def _begin_online(self, arguments: Mapping[str, Any], folder: Path) -> _session.Session:
        if _Server.unreachable is None:
            try:
                return self._log_in_and_begin(arguments)
            except Exception as error:  # CommError, UsageError, and what else a client finds
                _Server.unreachable = reason(error)
                self.notify(
                    f"W&B cannot be used online ({_Server.unreachable}). Runs are logged offline; "
                    "bring W&B up to them later with: "
                    f"python -m experiments.sweep sync {typed(folder.parent)}"
                )
                self._forget_failed_run()
        note_event(folder, "tracker wandb went offline", detail=_Server.unreachable, notify=self.notify)
        return self._begin(arguments, "offline")

    def _forget_failed_run(self) -> None:
        """End the client's service, which would refuse the failed run's id a second time."""
        import wandb

        if _Server.open_runs == 0:
            wandb.teardown()

    def _log_in_and_begin(self, arguments: Mapping[str, Any]) -> _session.Session:
        log_in()
        session = self._begin(arguments, "online")
        if not _Server.announced:
            _Server.announced = True
            self.notify(f"W&B: {session.run.project_url}")
        return session


def project_of(spec: Mapping[str, Any]) -> str:
    """The project of a run that names none: WANDB_PROJECT, else its study."""
    return os.environ.get("WANDB_PROJECT") or str(spec["study"])


def make(options: Mapping[str, Any], notify: Notify) -> Wandb:
    """A tracker from the options in this module's docstring; null means the default."""
    known = [option.name for option in fields(Wandb) if option.init and option.name != "notify"]
    for key in options:
        if key not in known:
            raise UserError(
                f"tracker wandb has no option {key!r}.{did_you_mean(key, known)} It has: {', '.join(known)}."
            )
    given = {key: value for key, value in options.items() if value is not None}
    mode = str(given.get("mode", "online"))
    if mode not in MODES:
        raise UserError(f"tracker.mode={mode} is none of {', '.join(MODES)}.{did_you_mean(mode, MODES)}")
    return Wandb(notify, **given)
