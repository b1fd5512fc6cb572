"""One element of an array: runs its cells with the engine, as a command on one machine would.

    python -m experiments.sweep.slurm.task runs/demo/.slurm/1/1.jsonl      # started by slurm/job.sbatch

What Slurm says by signals, and what becomes of the task once every run has saved its state:

    USR2, USR1   the time limit is near, or somebody asks (scancel --signal=USR2): it queues itself again
    TERM         preempted: it queues itself again, because a job that ends while it makes room counts
                 as complete; requeued or cancelled from outside: it ends, and Slurm does as it was ordered

A run that another process holds is waited for: it ends there, or is taken over from there. Where the elements
before it all failed in the same way, a task begins nothing and cancels those that wait.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import data
from experiments.errors import report_errors, say
from experiments.record import RunFolder, written
from experiments.record import read as record_of
from experiments.spec import RunSpec
from experiments.sweep import engine
from experiments.sweep.failures import ENOUGH, common_cause
from experiments.sweep.packs import states
from experiments.sweep.plan import check_data
from experiments.sweep.resources import gpus
from experiments.sweep.slurm import client
from experiments.sweep.slurm.settings import Settings
from experiments.sweep.slurm.submission import element, elements_before, read
from experiments.sweep.worker import listen

ASKING = (signal.SIGUSR1, signal.SIGUSR2)
VAIN = 2  # restarts, after which one that gets nowhere is not followed by another


class Signalled(BaseException):
    """A signal came while the engine had nothing under way; its number is the argument."""


def main(arguments: Sequence[str]) -> int:
    """Run the cells of this element; the exit code is the engine's."""
    file = Path(arguments[0])
    listen(_stop)  # but for the time when the engine listens itself
    settings = Settings(read(file.parent).content["settings"])
    cells = element(file, int(os.environ["SLURM_ARRAY_TASK_ID"]))
    study = file.parents[2]
    if not settings.terms().keep_going and (why := _in_vain(file, study)):
        say(
            f"The runs of this array that have ended, {ENOUGH} or more, all failed in the same way, so those "
            f"that have not begun are cancelled: {why}. keep_going=true goes on all the same."
        )
        client.cancel([os.environ["SLURM_ARRAY_JOB_ID"]], waiting=True)
        return engine.SOME_FAILED
    before = _progress(study, cells)
    try:
        code = _run(cells, settings, root=study.parent)
    except Signalled as signalled:
        code = 128 + signalled.args[0]
    listen(signal.SIG_IGN)  # all is saved: whatever else Slurm says must not keep this from queueing itself
    if code > 128 and not all(engine.finished(study / run_id) for _, run_id in cells):
        _go_on_later(code - 128, idle=_progress(study, cells) == before)
    return code


def _in_vain(file: Path, study: Path) -> str | None:
    """Why the elements before this one failed, if all that have ended did so in the same way.

    Records that are older than the submission are of an earlier attempt.
    """
    submitted = file.stat().st_mtime_ns
    run_ids = elements_before(file, int(os.environ["SLURM_ARRAY_TASK_ID"]))
    return common_cause(
        (run_id, found)
        for run_id in run_ids
        if (written(study / run_id) or 0) >= submitted and (found := record_of(study / run_id)) is not None
    )


def _stop(number: int, frame: object) -> None:
    listen(signal.SIG_IGN)  # a second one must not interrupt the handling of the first
    raise Signalled(number)


def _run(cells: Sequence[tuple[RunSpec, str]], settings: Settings, *, root: Path) -> int:
    """The cells with one process per GPU of the job; one where it has none, whose threads its cores are."""
    workers = settings.given["workers"]
    if workers == "auto":
        workers = max(1, len(gpus()) // settings.terms().fsdp)
    for spec, run_id in cells:
        check_data(spec, run_id, data.fingerprint(spec))
    specs = [spec for spec, _ in cells]
    return engine.run(specs, workers=workers, root=root, terms=settings.terms(), at_end="table")


def _progress(study: Path, cells: Sequence[tuple[RunSpec, str]]) -> list[list[str]]:
    """What has been saved of each cell and of their packs; a checkpoint's name says its step."""
    folders = [RunFolder(study / run_id) for _, run_id in cells]
    saved = [
        sorted(path.name for path in (*folder.path.glob("record.json"), *folder.checkpoint.glob("*")))
        for folder in folders
    ]
    return [*saved, states(study, [run_id for _, run_id in cells])]


def _go_on_later(number: int, *, idle: bool) -> None:
    """Have Slurm start this element again, if that was meant by the signal and leads anywhere.

    It goes by its name in the array: the number of one element is that of the whole array, too.
    """
    job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if number not in ASKING and not client.is_preempted(job):
        return
    if idle and int(os.environ.get("SLURM_RESTART_COUNT") or 0) >= VAIN:
        say("Not queued again: this start got no further. Give more hydra.launcher.minutes.")
    elif client.requeue(job):
        say("Queued again, to go on from the saved state.")
    else:
        say("Slurm does not queue it again; give the same command again to go on from the saved state.")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.exit(report_errors(lambda: main(sys.argv[1:])))
