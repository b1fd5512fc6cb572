"""Weights & Biases. One W&B run per run: group = the cell without its seed, id = run_id, steps of our own.

    options   mode      online | offline | disabled; null follows WANDB_MODE, else online
              project   null: WANDB_PROJECT, else the study
              entity    null: W&B's own default
              timeout   seconds to wait for the server, at the start and at the end of a run

W&B's files lie in the run's own folder, `runs/<study>/<run_id>/wandb/`, so that a run is moved or thrown away
whole. `wandb sync runs/<study>/*/wandb/offline-run-*` uploads what was logged offline.

Settings differ from W&B's defaults where those lose data: the log is flushed every 2 s (15 s by default, and
a kill loses what was not flushed), the exit code is given explicitly (a raised SystemExit would count as
success), waiting for a server is bounded, and `step=` is never passed (W&B drops rows whose step went back on
a resume). A server that does not answer is tried once per process; this run and the later ones go on offline.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from experiments.errors import UserError, did_you_mean
from experiments.trackers._base import Tell, Tracker, note_event, reason

MODES = ("online", "offline", "disabled")
STEP = "train/step"
_JOB_TYPES = {"run": "train"}  # the other phases keep their name
_EXIT_CODES = {
    "completed": 0,
    "diverged": 0,
    "preempted": 143,
}  # anything else is 1; a divergence is a result


class _Server:
    """What this process knows of the server, shared by its runs."""

    unreachable: str | None = None  # the reason, once it did not answer
    announced: bool = False
    open_runs: int = 0


@dataclass
class Wandb(Tracker):
    """One W&B run."""

    tell: Tell
    mode: str | None = None
    project: str | None = None
    entity: str | None = None
    timeout: float = 30.0
    _run: Any = field(default=None, init=False)
    _sent: int = field(default=-1, init=False)  # the last step that the server had when the run was resumed

    def start(
        self,
        run_id: str,
        spec: Mapping[str, Any],
        *,
        group: str,
        name: str,
        tags: Sequence[str],
        folder: Path,
        phase: str = "run",
    ) -> None:
        """Begin the W&B run, offline where the server does not answer."""
        arguments = {
            "id": run_id,
            "config": dict(spec),
            "group": group,
            "name": name,
            "tags": [tag[:64] for tag in tags],  # W&B refuses longer ones
            "job_type": _JOB_TYPES.get(phase, phase),
            "project": self.project or os.environ.get("WANDB_PROJECT") or str(spec["study"]),
            "entity": self.entity,
            "dir": str(folder),
            "resume": "allow",
        }
        folder.mkdir(parents=True, exist_ok=True)
        mode = self.mode or os.environ.get("WANDB_MODE") or "online"
        self._run = (
            self._begin_online(arguments, folder) if mode == "online" else self._begin(arguments, mode)
        )
        _Server.open_runs += 1
        self._run.define_metric("*", step_metric=STEP)
        if self._run.resumed:
            self._sent = int(self._run.summary.get(STEP, -1))

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """Log one row under our own step; what an interrupted run had sent is not sent again."""
        if step > self._sent:
            self._run.log({**{key: value for key, value in row.items() if key != "step"}, STEP: step})

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set final values."""
        self._run.summary.update(dict(values))

    def finish(self, status: str) -> None:
        """End the run; raises when the server did not take everything in time (the data is on disk)."""
        _Server.open_runs -= 1
        self._run.summary.update({"status": status})
        self._run.finish(exit_code=_EXIT_CODES.get(status, 1))

    def _begin(self, arguments: Mapping[str, Any], mode: str) -> Any:
        import wandb

        settings = wandb.Settings(
            console="off",
            silent=True,
            save_code=False,
            x_save_requirements=False,  # the record holds the versions
            x_transaction_log_flush_interval=2,
            init_timeout=self.timeout,
            finish_timeout=self.timeout,
            finish_timeout_raises=True,
        )
        return wandb.init(**arguments, mode=mode, settings=settings, reinit="create_new")  # type: ignore[arg-type]

    def _begin_online(self, arguments: Mapping[str, Any], folder: Path) -> Any:
        if _Server.unreachable is None:
            try:
                return self._log_in_and_begin(arguments)
            except Exception as error:  # CommError, UsageError, and what else a client finds
                _Server.unreachable = reason(error)
                self.tell(
                    f"W&B cannot be used online ({_Server.unreachable}). Runs are logged offline; "
                    f"upload them later with: wandb sync {folder.parent}/*/wandb/offline-run-*"
                )
                self._forget_failed_run()
        note_event(folder, "tracker wandb went offline", detail=_Server.unreachable, tell=self.tell)
        return self._begin(arguments, "offline")

    def _forget_failed_run(self) -> None:
        """End the client's service, which would refuse the failed run's id a second time."""
        import wandb

        if _Server.open_runs == 0:
            wandb.teardown()

    def _log_in_and_begin(self, arguments: Mapping[str, Any]) -> Any:
        import wandb

        wandb.setup(wandb.Settings(silent=True))  # or the login would greet the user once per process
        if not wandb.login(prompt=False, verify=False):  # a prompt would stop a sweep that nobody watches
            raise UserError("no API key: run `wandb login`, set WANDB_API_KEY, or use tracker.mode=offline")
        run = self._begin(arguments, "online")
        if not _Server.announced:
            _Server.announced = True
            self.tell(f"W&B: {run.project_url}")
        return run


def make(options: Mapping[str, Any], tell: Tell) -> Wandb:
    """A tracker from the options in this module's docstring; null means the default."""
    known = [option.name for option in fields(Wandb) if option.init and option.name != "tell"]
    for key in options:
        if key not in known:
            raise UserError(
                f"tracker wandb has no option {key!r}.{did_you_mean(key, known)} It has: {', '.join(known)}."
            )
    given = {key: value for key, value in options.items() if value is not None}
    mode = str(given.get("mode", "online"))
    if mode not in MODES:
        raise UserError(f"tracker.mode={mode} is none of {', '.join(MODES)}.{did_you_mean(mode, MODES)}")
    return Wandb(tell, **given)
