"""One W&B run while it is open: what W&B has of it is known, so that nothing is logged twice.

The run's own files are the truth. Whoever ends a session first adds what W&B lacks of them, so that the
tracker of a run and `sweep sync` bring W&B to the same state:

    history   each row of history.jsonl once; what W&B had before stays as it is
    summary   the last value of every column, then the record's metrics and cost, and its status
    config    the spec from the start; what the record says of data, code and machine at the end
    state     the exit code of the record's status

What W&B has is asked of the server when a run goes on that it knows, and read from the logs in the run's
folder when the run is logged offline. A server that does not answer in full is believed up to its last step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.record import RunFolder, read
from experiments.tracking import _log
from experiments.tracking._base import Labels, Notify, note_event, reason
from experiments.tracking._rows import STEP, Identity, Row, identities, identity, last_values, local_rows
from experiments.tracking._server import Server

_JOB_TYPES = {"run": "train"}  # the other phases keep their name
_EXIT_CODES = {"completed": 0, "diverged": 0, "preempted": 143}  # else 1; a divergence is a result
_PROVENANCE = ("env", "data", "deviations")


@dataclass
class Session:
    """An open W&B run. `known` are the rows that W&B has, `floor` a step up to which it surely has all."""

    run: Any
    folder: RunFolder
    known: set[Identity] = field(default_factory=set)
    floor: float = -1

    def log(self, row: Row) -> bool:
        """Log one row as `shown` makes it; False if W&B has it."""
        if row[STEP] <= self.floor or identity(row) in self.known:
            return False
        self.run.log(dict(row))
        self.known.add(identity(row))
        return True

    def end(self, status: str) -> None:
        """Add what is missing, say how the run ended, and wait until W&B has it all.

        Raises:
            TimeoutError: The server did not take everything in time; the rest is on the disk.
        """
        try:
            for row in local_rows(self.folder):
                self.log(row)
            self.run.summary.update(expected_summary(self.folder, status))
            self.run.config.update(provenance(self.folder), allow_val_change=True)
        finally:
            self.run.finish(exit_code=exit_code(status))


def begin(arguments: Mapping[str, Any], *, mode: str, timeout: float, notify: Notify) -> Session:
    """Open a run, new or going on.

    Args:
        arguments: For wandb.init, as `arguments_of` makes them.
        mode: online or offline.
        timeout: Seconds to wait for the server, here and at the end.
        notify: Takes a line for the person watching.
    """
    folder = RunFolder(Path(arguments["dir"]))
    folder.path.mkdir(parents=True, exist_ok=True)
    known = identities(_log.rows(folder.path)) if mode == "offline" else set()
    session = Session(open_run(arguments, mode=mode, timeout=timeout), folder, known)
    session.run.define_metric("*", step_metric=STEP)
    if mode == "online" and session.run.resumed:
        _learn(session, timeout, notify)
    return session


def arguments_of(
    run_id: str, spec: Mapping[str, Any], *, labels: Labels, folder: Path, project: str, entity: str | None
) -> dict[str, Any]:
    """What wandb.init is given for a run."""
    return {
        "id": run_id,
        "config": {**spec, "run_id": run_id},
        "group": labels.group,
        "name": labels.name,
        "tags": [tag[:64] for tag in labels.tags],  # W&B refuses longer ones
        "job_type": _JOB_TYPES.get(labels.phase, labels.phase),
        "project": project,
        "entity": entity,
        "dir": str(folder),
        "resume": "allow",
    }


def open_run(arguments: Mapping[str, Any], *, mode: str, timeout: float) -> Any:
    """wandb.init with settings that lose nothing and wait for no longer than asked."""
    import wandb

    settings = wandb.Settings(
        console="off",
        silent=True,
        save_code=False,
        x_save_requirements=False,  # the record holds the versions
        x_transaction_log_flush_interval=2,  # a kill loses what was not flushed; the default is 15 s
        init_timeout=timeout,
        finish_timeout=timeout,
        finish_timeout_raises=True,
    )
    return wandb.init(**arguments, mode=mode, settings=settings, reinit="create_new")  # type: ignore[arg-type]


def expected_summary(folder: RunFolder, status: str) -> dict[str, Any]:
    """What W&B's summary of a run should say, from its own files."""
    record = read(folder.path) or {}
    return {
        **last_values(local_rows(folder)),
        **record.get("metrics", {}),
        **record.get("cost", {}),
        "status": status,
    }


def provenance(folder: RunFolder) -> dict[str, Any]:
    """What W&B's config of a run gets from its record, where there is one."""
    record = read(folder.path) or {}
    return {key: record[key] for key in _PROVENANCE if record.get(key)}


def exit_code(status: str) -> int:
    """The exit code that stands for a status: W&B calls 0 finished and all else failed."""
    return _EXIT_CODES.get(status, 1)


def _learn(session: Session, timeout: float, notify: Notify) -> None:
    """Ask the server which rows it has; where it does not say all, trust the last step that it knows."""
    run, why = session.run, "the server shows fewer rows than it took"
    try:
        held = Server(timeout).held(run.entity, run.project, run.id, patience=timeout)
    except Exception as error:  # whatever a client may raise: the resume still knows the last step
        held, why = None, reason(error)
    if held is not None:
        session.known = identities(held.rows)
    if held is None or not held.complete:
        session.floor = run.summary.get(STEP, -1)
        note_event(session.folder.path, "tracker wandb trusts the last step", detail=why, notify=notify)
