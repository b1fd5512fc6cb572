"""One element of an array: runs its cells with the engine, as a command on one machine would.

    python -m experiments.sweep.slurm.task runs/demo/.slurm/1/1.jsonl auto     # started by slurm/job.sbatch

What Slurm says by signals, and what becomes of the task once every run has saved its state:

    USR2, USR1   the time limit is near, or somebody asks (scancel --signal=USR2): it queues itself again
    TERM         preempted: it queues itself again, because a job that ends while it makes room counts
                 as complete; requeued or cancelled from outside: it ends, and Slurm does what it was told

A cell that somebody else holds is waited for as long as it takes to tell a dead holder from a living one.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.errors import told
from experiments.record import RunFolder, read
from experiments.spec import RunSpec
from experiments.sweep import engine
from experiments.sweep.claim import STALE_SECONDS
from experiments.sweep.slurm import client
from experiments.sweep.slurm.submission import element

AGAIN_SECONDS = 10.0  # between two looks at cells that are held elsewhere
ASKING = (signal.SIGUSR1, signal.SIGUSR2)
VAIN = 2  # restarts, after which one that gets nowhere is not followed by another


def main(arguments: Sequence[str]) -> int:
    """Run the cells of this element; the exit code is the engine's."""
    file, workers = Path(arguments[0]), arguments[1]
    number = int(os.environ["SLURM_ARRAY_TASK_ID"])
    received: list[int] = []
    for stop in (signal.SIGTERM, *ASKING):
        signal.signal(stop, lambda got, frame: received.append(got))
    cells = element(file, number)
    study = file.parents[2]
    before = _progress(study, cells)
    code = _run(cells, _workers(workers), root=study.parent, received=received)
    asked = {*received, code - 128} & {signal.SIGTERM, *ASKING}
    if asked and _left(study, cells):
        _go_on_later(asked, idle=_progress(study, cells) == before)
    return code


def _workers(wanted: str) -> int:
    """One process per GPU of the job, and one where it has none: its cores are then that one's threads."""
    return (len(engine.gpus()) or 1) if wanted == "auto" else int(wanted)


def _run(cells: Sequence[tuple[RunSpec, str]], workers: int, *, root: Path, received: Sequence[int]) -> int:
    """Run what is left until it has ended, somebody else has it, or a signal came."""
    deadline = time.monotonic() + 2 * STALE_SECONDS
    while True:
        if received:
            return 128 + received[0]
        code = engine.run([spec for spec, _ in cells], workers=workers, root=root, report=False)
        study = root / cells[0][0].study
        held = [run_id for run_id in _left(study, cells) if read(study / run_id) is None]
        if code > 1 or not held:
            return code
        if time.monotonic() > deadline:
            print(f"Left to the processes that are at them: {', '.join(held)}")
            return code
        time.sleep(AGAIN_SECONDS)


def _left(study: Path, cells: Sequence[tuple[RunSpec, str]]) -> list[str]:
    return [run_id for _, run_id in cells if not engine.finished(study / run_id)]


def _progress(study: Path, cells: Sequence[tuple[RunSpec, str]]) -> list[list[str]]:
    """What has been saved of each cell; a checkpoint's name says its step."""
    folders = [RunFolder(study / run_id) for _, run_id in cells]
    return [
        sorted(path.name for path in (*folder.path.glob("record.json"), *folder.checkpoint.glob("*")))
        for folder in folders
    ]


def _go_on_later(asked: set[int], *, idle: bool) -> None:
    """Have Slurm start this element again, if that was meant and leads anywhere."""
    job = os.environ["SLURM_JOB_ID"]
    if not asked & set(ASKING) and not client.is_preempted(job):
        return
    if idle and int(os.environ.get("SLURM_RESTART_COUNT") or 0) >= VAIN:
        print(
            "Not queued again: the last start did not get to save anything. Give hydra.launcher.minutes more."
        )
    elif client.requeue(job):
        print("Queued again, to go on from the saved state.")
    else:
        print("Slurm does not queue it again; give the same command again to go on from the saved state.")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.exit(told(lambda: main(sys.argv[1:])))
