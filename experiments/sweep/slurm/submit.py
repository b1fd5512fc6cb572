"""From specs to jobs in the queue: plan what is missing, copy the code, submit an array per shape, return.

Given again, the command submits only what is neither finished nor in the queue. That spares Slurm work; that
each run is done once is ensured by leases (`experiments.sweep.lease`), whatever is submitted.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments import data
from experiments.console.display import Display
from experiments.errors import UserError, plural, say, typed
from experiments.files import check_writable
from experiments.spec import RunSpec
from experiments.sweep import engine
from experiments.sweep.integrity import quarantine_damaged
from experiments.sweep.lease import registered
from experiments.sweep.packs import form
from experiments.sweep.plan import Plan, Runs, plan
from experiments.sweep.pool import Pool
from experiments.sweep.resources import resources
from experiments.sweep.slurm import client, script
from experiments.sweep.slurm.settings import Settings, Shape
from experiments.sweep.slurm.submission import Submission, active, create, jobs_in, write_elements
from experiments.sweep.study import gone_if_refused, write_requested


class Submitter:
    """Submits the runs of commands, and what is to come after them."""

    def __init__(self, settings: Settings, *, root: Path = Path("runs")):
        self.settings, self.root = settings, root
        self._study = root
        self._last: Submission | None = None

    def submit(self, specs: Sequence[RunSpec], *, again: bool = False) -> int:
        """Put what is missing of a study into the queue.

        Args:
            specs: All cells of the command, of one study.
            again: Run finished cells anew; their records are set aside first.

        Returns:
            The exit code: 0 submitted or nothing to submit, 2 refused.

        Raises:
            UserError: Nothing can be submitted from here, or Slurm refused; what it took before is noted.
        """
        client.need()
        self._study, self._last = self.root / specs[0].study, None
        with gone_if_refused(self._study):
            check_writable(self._study)
            return self._submit(specs, again=again)

    def _submit(self, specs: Sequence[RunSpec], *, again: bool) -> int:
        found = plan(specs, fingerprints=data.fingerprint, root=self.root, again=again)
        queued = active(self._study, client.queue() or [])
        todo = tuple((spec, run_id) for spec, run_id in found.todo if run_id not in queued)
        waiting = len(found.todo) - len(todo)
        counts = [f"{len(found.done)} already finished"] * bool(found.done)
        counts += [f"{waiting} in the queue already"] * bool(waiting)
        with Display() as display:
            display.note(", ".join([plural(len(found.todo) + len(found.done), "run"), *counts]))
            for note in (*found.notes, *quarantine_damaged(self._study, found.damaged)):
                display.note(note)
            if todo and self.settings.job("check") and self._refused(replace(found, todo=todo), display):
                return engine.USAGE
        if again:
            engine.set_aside(self._study, found)
        write_requested(self._study, (*found.done, *found.todo))
        if todo:
            self._last = self._new()
            try:
                self._arrays(self._last, todo)
            finally:  # if a later array was refused, those before it will have something to report
                if self._last.arrays:
                    self._report(self._last)
        say(_next_steps(self._study, queued=bool(todo or waiting)))
        return engine.DONE

    def submit_after(self, command: Sequence[str]) -> None:
        """Have a small job carry out a command once all runs of the study that are in the queue have ended.

        It is carried out in the folder in which this process works, by the code of the last submission:
        "python" and the running interpreter stand for the jobs' own.
        """
        last = self._last or self._new()
        job = self._after(last, f"after-{len(last.after)}", command)
        say(f"Job {job} goes on after them: {' '.join(command)}")

    def _refused(self, todo: Plan, display: Display) -> bool:
        """Have a worker of this machine try the cells on the model."""
        _, threads, gpus = resources(1, 1)
        logs = self._study / ".logs"
        pool = Pool(1, threads=threads, gpus=gpus, logs=logs, on_event=lambda event: None)
        with registered(self._study), pool:
            return engine.refused(pool, todo, self._study, display)

    def _new(self) -> Submission:
        made = create(self._study, dict(self.settings.given))
        script.copy_code(made.folder / "code")
        return made

    def _report(self, made: Submission) -> None:
        """Submit the job that makes the report; where not even that is taken, say how to make it."""
        try:
            job = self._after(made, "report", ["python", "-m", "analysis.report", str(self._study)])
        except UserError as error:
            say(
                f"No job makes the report ({error}) It is made by: "
                f"python -m analysis.report {typed(self._study)}"
            )
        else:
            say(f"Job {job} makes the report when they have ended, however they end.")

    def _arrays(self, made: Submission, todo: Runs) -> None:
        size, terms = client.max_array_size(), self.settings.terms()
        most = terms.pack if type(terms.pack) is int and terms.fsdp == 1 else 1
        for shape, cells in _by_shape(todo, self.settings).items():
            packs = form(tuple(cells), self._study, size=most)
            elements = [
                tuple(run for pack in part for run in pack.runs)
                for part in _parts(packs, shape.runs_per_task)
            ]
            previous = None
            for part in _parts(elements, size):
                previous = self._array(made, shape, part, after=previous if shape.throttle else None)

    def _array(self, made: Submission, shape: Shape, elements: Sequence[Runs], *, after: str | None) -> str:
        """Submit one array; `after` is the one before it where both together must keep to the throttle."""
        file = made.folder / f"{len(made.arrays) + 1}.jsonl"
        write_elements(file, elements)
        variants = sorted({spec.variant for cells in elements for spec, _ in cells})
        limit = f"%{shape.throttle}" if shape.throttle else ""
        words = [
            f"--job-name={self._study.name}:{'+'.join(variants)}",
            f"--array=0-{len(elements) - 1}{limit}",
            f"--output={made.folder.absolute()}/logs/%A_%a.log",
            *([f"--dependency=afterany:{after}"] if after else []),
            f"--signal=USR2@{self.settings.job('warning_seconds')}",
            *shape.words(),
        ]
        command = ["python", "-m", "experiments.sweep.slurm.task", str(file.absolute())]
        text = script.render(made.folder / "code", self.settings, words=words, command=command)
        job = client.sbatch(script.write(file.with_suffix(".sbatch"), text))
        runs = sum(len(cells) for cells in elements)
        made.add_array(job=job, file=file.name, tasks=len(elements), runs=runs, variants=variants)
        say(f"Job {job}: {plural(runs, 'run')} of {', '.join(variants)}, {_words(shape, len(elements))}")
        return job

    def _after(self, made: Submission, name: str, command: Sequence[str]) -> str:
        """Submit a job that begins when all runs of the study that are in the queue have ended."""
        jobs = dict.fromkeys(array["job"] for array in made.arrays)
        jobs |= dict.fromkeys(jobs_in(self._study, client.queue() or [], after=False))
        words = [
            f"--job-name={self._study.name}:{name}",
            f"--output={made.folder.absolute()}/logs/{name}-%j.log",
            *([f"--dependency=afterany:{':'.join(jobs)}", "--kill-on-invalid-dep=yes"] if jobs else []),
            *self.settings.report().words(),
        ]
        own = ["python" if word == sys.executable else word for word in command]
        text = script.render(made.folder / "code", self.settings, words=words, command=own)
        job = client.sbatch(script.write(made.folder / f"{name}.sbatch", text))
        made.add_after(job)
        return job


def last_settings(before: Sequence[Submission]) -> Settings:
    """The settings of the latest submission, to submit with them again."""
    if not before:
        raise UserError("nothing of this study was submitted to Slurm.")
    return Settings(before[-1].content["settings"])


def _by_shape(todo: Runs, settings: Settings) -> dict[Shape, list[tuple[RunSpec, str]]]:
    """The cells of each shape, those of one model and dataset together: a job loads a model once."""
    shapes: dict[Shape, list[tuple[RunSpec, str]]] = {}
    for spec, run_id in sorted(todo, key=lambda cell: (cell[0].model, cell[0].dataset)):
        shapes.setdefault(settings.shape(spec), []).append((spec, run_id))
    return shapes


def _parts(items: Sequence, size: int) -> list:
    return [tuple(items[first : first + size]) for first in range(0, len(items), size)]


def _words(shape: Shape, tasks: int) -> str:
    """A shape for people."""
    memory = f", {shape.mem_gb:g} GB" if shape.mem_gb else ""
    gpus = f", {plural(shape.gpus, 'GPU')}" if shape.gpus else ""
    throttle = f", {shape.throttle} at once" if shape.throttle and shape.throttle < tasks else ""
    return f"{plural(tasks, 'task')} of {plural(shape.cpus, 'core')}{memory}{gpus}{throttle}"


def _next_steps(study: Path, *, queued: bool) -> str:
    if not queued:
        return f"Nothing to submit. The report: python -m analysis.report {typed(study)}"
    return (
        f"You may log out. How it goes: python -m experiments.sweep watch {typed(study)} "
        "(status, cancel, retry).\n"
        f"The same command given again submits what is missing then."
    )
