"""A sweep from its specs to its report: plan what is missing, run it, say how it went.

The command that started a sweep is also the one that resumes it: finished runs are skipped, unfinished ones
go on from their checkpoint, failed ones are tried again.
"""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments import data, record
from experiments.display import Display
from experiments.errors import UserError
from experiments.files import check_writable
from experiments.provenance import collect
from experiments.record import RunFolder
from experiments.spec import RunSpec
from experiments.sweep.plan import Plan, plan
from experiments.sweep.pool import Cell, Outcome, Pool

DONE, SOME_FAILED, USAGE = 0, 1, 2
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
BYTES_PER_WORKER = 3 << 30  # libraries, a small base model, activations
ALIKE_FAILURES = 3  # the first so many runs failing alike means that the next would too


def run(
    specs: Sequence[RunSpec],
    *,
    workers: int | str = "auto",
    root: Path = Path("runs"),
    again: bool = False,
    report: bool = True,
) -> int:
    """Run what is missing of a study and make its report.

    Args:
        specs: All cells of the command, of one study.
        workers: How many processes; "auto" takes one per GPU, or what suits the cores.
        root: The folder of all studies.
        again: Run finished cells anew; their records are set aside first.
        report: Whether to make the report at the end.

    Returns:
        The exit code: 0 all done, 1 some failed, 2 refused, 128 + a signal's number when it interrupted.

    Raises:
        UserError: The data or the output folder cannot be used; nothing was started.
    """
    study = root / specs[0].study
    check_writable(study)
    if again:
        set_aside(study, [run_id for _, run_id in plan(specs, fingerprints=data.fingerprint, root=root).done])
    todo = plan(specs, fingerprints=data.fingerprint, root=root)
    with Display() as display:
        display.sweep(total=len(todo.todo) + len(todo.done), skipped=len(todo.done))
        for note in todo.notes:
            display.note(note)
        code = _train(todo, study, workers, display) if todo.todo else DONE
        if code == USAGE:
            return code
        page = _report(study) if report else None
        display.results(_results(study, todo), report=str(page) if page else None)
    if code > 128:
        left = sum(1 for _, run_id in todo.todo if not finished(study / run_id))
        print(f"\nStopped. {left} runs are left; give the same command again to go on from where they stand.")
    return code


def _train(todo: Plan, study: Path, workers: int | str, display: Display) -> int:
    cells = [Cell(run_id, spec.as_record()) for spec, run_id in todo.todo]
    size, threads, gpus = resources(workers, len(cells))
    failures: Counter[str] = Counter()
    outcomes = 0
    pool = Pool(size, threads=threads, gpus=gpus, logs=study / ".logs", on_event=lambda e: _show(e, display))
    with pool, _signals(pool) as received:
        refused = check(pool, cells, display)
        if received:
            return 128 + received[0]
        if refused:
            return USAGE
        for outcome in pool.run(cells, root=study.parent):
            outcomes += 1
            status, reason = _settle(outcome, study)
            display.run_finished(outcome.cell.run_id, status, _words(outcome.event.get("metrics", {})))
            if status in ("failed", "oom"):
                failures[reason] += 1
                display.note(f"{outcome.cell.run_id} {status}: {reason}")
                if failures[reason] == outcomes == ALIKE_FAILURES and len(cells) > ALIKE_FAILURES:
                    display.note(
                        f"The first {ALIKE_FAILURES} runs failed alike, so the sweep stops here: {reason}"
                    )
                    pool.stop()
        if received:
            return 128 + received[0]
    return SOME_FAILED if failures else DONE


def check(pool: Pool, cells: Sequence[Cell], display: Display) -> bool:
    """Have a worker try the cells on the model; whether something, which is then told, is against them."""
    answer = pool.check([cell.spec for cell in cells])
    if answer["event"] == "died":
        if pool.stopping:
            return False
        raise UserError(
            f"the worker died while loading the model (exit code {answer['code']}); see {pool.logs}"
        )
    for note in answer["notes"]:
        display.note(note)
    if answer["problems"]:
        _refuse(answer["problems"])
    return bool(answer["problems"])


def resources(workers: int | str, cells: int) -> tuple[int, int, list[int]]:
    """Processes, threads of each, and the GPUs to share out; never more processes than cells.

    On CPUs "auto" is a process per core: measured on 2 cores, two processes of one thread train 1.3 times as
    many steps of the default model as one process of two.
    """
    cores, mine = _cores(), gpus()
    wanted = (len(mine) or min(cores, _room())) if workers == "auto" else int(workers)
    size = max(1, min(wanted, cells))
    return size, max(1, cores // size), mine


def _cores() -> int:
    """The cores that are ours: what Slurm gave where it did, else what the system lets us use."""
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if given.isdigit():
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _room() -> int:
    """How many worker processes the free memory holds."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 2
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return max(1, free // BYTES_PER_WORKER)


def gpus() -> list[int]:
    """The GPUs that this process may use, asked of the driver: importing torch would cost seconds."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [int(part) for part in visible.split(",") if part.strip().isdigit()]
    return sorted(int(p.name[6:]) for p in Path("/dev").glob("nvidia[0-9]*") if p.name[6:].isdigit())


@contextmanager
def _signals(pool: Pool) -> Iterator[list[int]]:
    """While open, signals ask the pool to stop; the list holds what came.

    A second Ctrl-C is a person who will not wait: it kills. Slurm's second signal only repeats the first.
    """
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        if not received or number == signal.SIGINT:
            pool.stop()
        received.append(number)

    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _settle(outcome: Outcome, study: Path) -> tuple[str, str]:
    """The status of a run and the reason, if it failed.

    A run whose worker was killed gets its record here.
    """
    event = outcome.event
    if event["event"] in ("busy", "interrupted"):
        return ("preempted" if event["event"] == "interrupted" else "busy"), ""
    if event["event"] == "finished":
        error = event.get("error", {})
        return event["status"], ": ".join(str(error[key]) for key in ("kind", "message") if key in error)
    code = event["code"]
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    hint = " (out of memory, most often)" if code == -signal.SIGKILL else ""
    message = f"the worker process died: {how}{hint}"
    folder = RunFolder(study / outcome.cell.run_id)
    folder.write_record(
        {
            "run_id": outcome.cell.run_id,
            "study": study.name,
            "status": "failed",
            "spec": outcome.cell.spec,
            "env": collect(),
            "error": {"kind": "killed", "message": message},
        }
    )
    return "failed", message


def _show(event: dict, display: Display) -> None:
    """What a worker says on the way, for the display."""
    match event["event"]:
        case "started":
            display.run_started(event["run_id"], event["steps"], done=event["done"])
        case "step":
            display.step(event["run_id"], event["step"], event["loss"])
        case "note":
            display.note(event["text"])


def _refuse(problems: Sequence[str]) -> None:
    print(f"Nothing was started: {len(problems)} problem{'s' * (len(problems) > 1)}.", file=sys.stderr)
    for problem in problems:
        print(f"  - {problem}", file=sys.stderr)


def set_aside(study: Path, run_ids: Sequence[str]) -> None:
    """Rename the records of finished runs, so that the runs count as missing and nothing is lost."""
    for run_id in run_ids:
        path = RunFolder(study / run_id).record
        earlier = len(list(path.parent.glob("record.*.json")))
        path.rename(path.with_name(f"record.{earlier + 1}.json"))


def finished(folder: Path) -> bool:
    found = record.read(folder)
    return found is not None and found["status"] in record.FINISHED


def _words(metrics: Mapping[str, float]) -> str:
    """The metrics of a run that just ended, in a line: those of the test."""
    return "  ".join(f"{name} {value:.3f}" for name, value in metrics.items() if name.startswith("test/"))


def _results(study: Path, todo: Plan) -> list[dict]:
    """The records of this command's cells, finished before or now."""
    ids = [run_id for _, run_id in (*todo.done, *todo.todo)]
    return [found for run_id in ids if (found := record.read(study / run_id)) is not None]


def _report(study: Path) -> Path | None:
    """Make the report in a process of its own.

    It needs other libraries, and its failure must not cost a sweep.
    """
    command = [sys.executable, "-m", "analysis.report", str(study)]
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2]))
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        print(
            f"The report could not be made; the records are in {study}.\n{result.stderr.strip()[-1000:]}",
            file=sys.stderr,
        )
        return None
    return study / "report" / "report.html"
