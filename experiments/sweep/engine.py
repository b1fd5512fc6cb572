"""A sweep from its specs to its report: plan what is missing, run it, say how it went.

The command that started a sweep is also the one that resumes it: finished runs are skipped, unfinished ones
go on from their checkpoint, failed ones are tried again.
"""

import itertools
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments import data, record
from experiments.config.settings import AtEnd, Terms
from experiments.console.display import Display
from experiments.errors import RunError, plural, say
from experiments.files import check_writable
from experiments.record import RunFolder
from experiments.spec import RunSpec
from experiments.sweep.failures import ENOUGH, fingerprint, settle
from experiments.sweep.integrity import quarantine_damaged
from experiments.sweep.lease import registered
from experiments.sweep.packs import OFF, Pack, form, largest, sizes, summary, tidy
from experiments.sweep.plan import Plan, kinds, plan
from experiments.sweep.pool import PlannedPack, PlannedRun, Pool, how_died
from experiments.sweep.resources import environment, resources
from experiments.sweep.study import LOGS, gone_if_refused, write_requested
from experiments.sweep.worker import STOP_SIGNALS

DONE, SOME_FAILED, USAGE = 0, 1, 2


def run(
    specs: Sequence[RunSpec],
    *,
    workers: int | str = "auto",
    root: Path = Path("runs"),
    again: bool = False,
    terms: Terms | None = None,
    at_end: AtEnd = "report",
) -> int:
    """Run what is missing of a study, then what `at_end` says.

    Args:
        specs: All runs of the command, of one study.
        workers: How many processes; "auto" takes one per GPU, or what suits the cores.
        root: The folder of all studies.
        again: Run finished runs anew; their records are set aside first.
        terms: How runs are treated on the way; the defaults if None.
        at_end: The table of results and the report, or less: see `settings.AtEnd`.

    Returns:
        The exit code: 0 all done, 1 some failed, 2 refused, 128 + n after signal n (130 is Ctrl-C).

    Raises:
        UserError: The data or the output folder cannot be used; nothing was started.
    """
    study = root / specs[0].study
    with gone_if_refused(study):
        check_writable(study)
        return _run(specs, study, workers, again=again, terms=terms or Terms(), at_end=at_end)


def _run(
    specs: Sequence[RunSpec], study: Path, workers: int | str, *, again: bool, terms: Terms, at_end: AtEnd
) -> int:
    with registered(study):
        todo = plan(specs, fingerprints=data.fingerprint, root=study.parent, again=again)
        with Display() as display:
            display.sweep(total=len(todo.todo) + len(todo.done), skipped=len(todo.done))
            for note in (*todo.notes, *quarantine_damaged(study, todo.damaged)):
                display.note(note)
            code = DONE
            if todo.todo:
                first = at_end != "table"  # a task's runs were written down when they were submitted
                code = _train(todo, study, workers, terms, display, write_down=first, again=again)
            if code == USAGE:
                return code
            page = _report(study, anew=bool(todo.todo)) if at_end == "report" else None
            if at_end != "nothing":
                display.results(_results(study, todo), report=str(page) if page else None)
    if code not in (DONE, SOME_FAILED):
        left = sum(1 for _, run_id in todo.todo if not finished(study / run_id))
        runs = "1 run is" if left == 1 else f"{left} runs are"
        say(f"\nStopped. {runs} left; give the same command again to resume.")
    return code


def _train(
    todo: Plan,
    study: Path,
    workers: int | str,
    terms: Terms,
    display: Display,
    *,
    write_down: bool,
    again: bool,
) -> int:
    size, threads, gpus = resources(workers, len(todo.todo), each=terms.fsdp)
    together = OFF if terms.fsdp > 1 else terms.pack
    pool = Pool(size, threads=threads, gpus=gpus, logs=study / LOGS, on_event=_EventPrinter(display))
    with pool, _signals(pool) as received:
        if refused(pool, todo, study, display, together=largest(together, len(todo.todo), pool.size)):
            return USAGE
        if again:
            set_aside(study, todo)
        if write_down:
            write_requested(study, (*todo.done, *todo.todo))
        measure = lambda *what: _measure(pool, *what)  # noqa: E731
        most = sizes(todo.todo, together, workers=pool.size, measure=measure)
        packs = form(todo.todo, study, size=most, workers=pool.size)
        if packed := summary(packs):
            display.note(f"{packed}.")
        failed = _collect(pool, packs, study, terms, display)
        tidy(study)
        if received:
            return 128 + received[0]
    return SOME_FAILED if failed else DONE


def refused(pool: Pool, todo: Plan, study: Path, display: Display, *, together: int = 1) -> bool:
    """Have a worker try the runs on the model; whether something, which is then printed, is against them.

    `together` is how many runs a worker may have unfinished at a time.

    Raises:
        RunError: The worker died over it.
    """
    cells = [[spec.as_record(), count] for spec, count in kinds(spec for spec, _ in todo.todo).items()]
    answer = pool.check({"check": cells, "folder": str(study), "workers": [pool.size, together]})
    if answer["event"] == "died" and not pool.stopping:
        raise RunError(
            f"nothing was started: the worker died while it loaded the model ({how_died(answer)}); "
            f"see {study}/.logs"
        )
    for note in answer.get("notes", ()):
        display.note(note)
    if answer.get("problems"):
        _refuse(answer["problems"])
    return bool(answer.get("problems"))


def _collect(pool: Pool, packs: Sequence[Pack], study: Path, terms: Terms, display: Display) -> int:
    """Execute the runs and say how each ended; how many failed."""
    failures: Counter[str] = Counter()
    ended = 0
    planned = [_planned(pack, study) for pack in packs]
    for outcome in pool.run(planned, root=study.parent, terms=terms):
        run_id = outcome.run.run_id
        if outcome.event.get("oom"):
            display.note(f"{run_id}: the kernel ended its process because memory ran out.")
            pool.with_less(outcome.run)
            continue
        settled = settle(outcome, study, terms)
        if settled is None:
            pool.wait_for(outcome.run)
            continue
        ended += 1
        status, reason = settled
        display.run_finished(run_id, status, _words(outcome.event.get("metrics", {})))
        if status not in ("failed", "oom"):
            continue
        display.note(f"{run_id} {status}: {reason}")
        kind = fingerprint(run_id, status, reason)
        failures[kind] += 1
        more = sum(len(pack.runs) for pack in packs) > ENOUGH
        if failures[kind] == ended == ENOUGH and more and not terms.keep_going:
            display.note(
                f"The first {ENOUGH} runs failed in the same way, so the sweep stops here: {reason}. "
                f"keep_going=true goes on all the same."
            )
            pool.stop()
    return failures.total()


def _measure(pool: Pool, specs: Sequence[RunSpec], wanted: Sequence[int], runs: int) -> Mapping[int, float]:
    """Seconds of a step by the size of a pack, as a worker measures them; nothing if it died of it."""
    if pool.stopping:
        return {}
    order = {"measure": [spec.as_record() for spec in specs], "sizes": list(wanted), "runs": runs}
    answer = pool.check(order)
    return {int(size): seconds for size, seconds in answer.get("seconds", {}).items()}


def _planned(pack: Pack, study: Path) -> PlannedPack:
    runs = (PlannedRun(run_id, spec, record.written(study / run_id)) for spec, run_id in pack.runs)
    return PlannedPack(tuple(runs), pack.members)


@contextmanager
def _signals(pool: Pool) -> Iterator[list[int]]:
    """While open, the signals that end a sweep ask the pool to stop; the list holds what came.

    A second Ctrl-C is a person who will not wait, and kills. Slurm's second signal only repeats the first.
    """
    received: list[int] = []
    order = itertools.count()  # one step: another signal may be handled in the midst of this one

    def stop(number: int, frame: object) -> None:
        received.append(number)
        if next(order) == 0 or number == signal.SIGINT:
            pool.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, *STOP_SIGNALS)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _EventPrinter:
    """Passes on to the display what workers say on the way."""

    def __init__(self, display: Display):
        self._display = display
        self._waits = False

    def __call__(self, event: dict) -> None:
        match event["event"]:
            case "started":
                self._display.run_started(event["run_id"], event["steps"], done=event["done"])
            case "step":
                self._display.step(event["run_id"], event["step"], event["loss"])
            case "note":
                self._display.note(event["text"])
            case "waiting" if not self._waits:
                self._waits = True
                self._display.note("Runs that another process has begun are waited for.")


def _refuse(problems: Sequence[str]) -> None:
    say(f"Nothing was started: {plural(len(problems), 'problem')}.", error=True)
    for problem in problems:
        say(f"  - {problem}", error=True)


def set_aside(study: Path, todo: Plan) -> None:
    """Rename the records of these runs, where there are any: they count as missing and nothing is lost."""
    for _, run_id in todo.todo:
        path = RunFolder(study / run_id).record
        if path.exists():
            names = (path.with_name(f"record.{number}.json") for number in itertools.count(1))
            path.rename(next(name for name in names if not name.exists()))


def finished(folder: Path) -> bool:
    found = record.read(folder)
    return found is not None and found["status"] in record.FINISHED


def _words(metrics: Mapping[str, float]) -> str:
    """The metrics of a run that just ended, in a line: those of the test, or of validation if it tunes."""
    split = "test/" if any(name.startswith("test/") for name in metrics) else "validation/"
    return "  ".join(f"{name} {value:.3f}" for name, value in metrics.items() if name.startswith(split))


def _results(study: Path, todo: Plan) -> list[dict]:
    """The records of this command's runs, finished before or now."""
    ids = [run_id for _, run_id in (*todo.done, *todo.todo)]
    return [found for run_id in ids if (found := record.read(study / run_id)) is not None]


def _report(study: Path, *, anew: bool) -> Path | None:
    """Make the report in a process of its own, unless it is there and nothing happened since.

    It needs other libraries, and its failure must not cost a sweep.
    """
    report = study / "report" / "report.html"
    if not anew and _is_newest(report, study):
        return report
    command = [sys.executable, "-m", "analysis.report", str(study)]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if result.returncode:
        say(
            f"The report could not be made; the records are in {study}.\n{result.stderr.strip()[-1000:]}",
            error=True,
        )
        return None
    return report


def _is_newest(report: Path, study: Path) -> bool:
    """Whether no record and no list of requested runs is younger than the report."""
    if not report.exists():
        return False
    lists = (path.stat().st_mtime_ns for path in (study / record.PLANNED).glob("*.json"))
    with os.scandir(study) as entries:
        records = [record.written(Path(entry.path)) or 0 for entry in entries if entry.is_dir()]
    return report.stat().st_mtime_ns > max(*records, *lists, 0, 0)
