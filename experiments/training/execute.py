"""From specs to records: load, attach, train, test, write; one pack at a time, a solo run is a pack of one.

Everything of a run is on the disk before anything else hears of it, and its record comes last: a folder with
a record is a run that ended, whatever the end was.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from experiments import models, tasks
from experiments.console.progress import Progress
from experiments.data import Task
from experiments.files import Check, Taken, replacing, replacing_folder, unchecked
from experiments.spec import RunSpec
from experiments.training import checkpoint, diagnostics, memory
from experiments.training.evaluate import Scores, evaluate, overall, prefixed, write_predictions
from experiments.training.loader import Loader
from experiments.training.loop import Callback, Trainer, run_config, total_steps
from experiments.training.memory import is_out_of_memory
from experiments.training.result import Facts, Seconds, error_kind, result, start_hashes
from experiments.training.run_state import Checkpoints, Interrupted, Run, resume, save
from variants import Attached, attach, peft_form, write_peft

if TYPE_CHECKING:
    from experiments.training.sharded.group import Group

_UNSIGNED = "signatures.npz was not made: with fsdp no process has the whole weights"


def device() -> torch.device:
    """The accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def execute(
    runs: Sequence[Run],
    *,
    display: Progress,
    should_stop: Callable[[], bool] = lambda: False,
    checkpoint_every: float = 60.0,
    checkpoint_steps: int | None = None,
    state: Path | None = None,
    loader: Loader | None = None,
    threads: int | None = None,
    group: "Group | None" = None,
) -> list[dict[str, Any]]:
    """Train a pack to its end and write each run's record.

    Args:
        runs: The pack; the specs must agree on what a pack shares (`RunSpec.pack_key`). Those that have a
            record already train along, so that the others' numbers stay what they were, and write nothing.
        display: Shown what happens.
        should_stop: Called at each step boundary.
        checkpoint_every: Seconds between checkpoints.
        checkpoint_steps: Steps between them, if that comes first. They are written with the rows of the
            history, so at the first multiple of train.log_every from there on.
        state: The folder of the pack's checkpoints; None: in that of its first run.
        loader: Where bases and data come from; one of its own if None.
        threads: How many the user fixed; None: as many as the run's checkpoint was made with, so that it
            resumes to the bit, else as many as torch has.
        group: The processes that train the run together, each of which calls this; None: this one alone.

    Returns:
        The records as written, of all runs that had none.

    Raises:
        Interrupted: `should_stop` said so and the state is in the checkpoint; or the run is another process's
            by now, and nothing was written.
    """
    started = time.perf_counter()
    seconds = Seconds()
    state = state or runs[0].folder.checkpoint
    with ExitStack() as stack:
        for run in runs:
            stack.callback(run.history.close)
            run.begin()
        specs = [run.training for run in runs]
        stack.enter_context(_threads(specs[0].train.threads, threads, state))
        place = device()
        with group.turn() if group else nullcontext():
            attached, info, task = prepared(specs, loader or Loader(), None if group else place)
            if group:
                group.shard(attached, place)
        seconds.load = time.perf_counter() - started
        trainer = Trainer(specs, attached, task.splits["train"], tasks.kind_of(task.kind).loss, group)
        for k, run in enumerate(runs):
            run.start = start_hashes(trainer, k)
        for text in resume(runs, trainer, state):
            display.note(text)
        if group:
            _start_together(group, runs[0], trainer)
            should_stop = partial(_agreed, group, should_stop)
        if task.also and trainer.progress.step == 0:
            with seconds.of("evaluate"):
                for run, before in zip(runs, _beside(runs, trainer, task, "before"), strict=True):
                    run.before = before
        for run, steps in zip(runs, trainer.ends, strict=True):
            display.run_started(run.run_id, steps, done=min(steps, trainer.progress.step))
        saving = Checkpoints(runs, trainer, state, checkpoint_every, checkpoint_steps)
        callbacks = [
            _Recorder(runs, trainer, task, seconds, display),
            *([] if group else [diagnostics.Signatures(runs, trainer, seconds)]),
            saving,
        ]
        memory.reset_peak(place)
        trainer.run(callbacks, should_stop=should_stop)
        if trainer.under_way().any():
            save(runs, trainer, state)
            raise Interrupted
        seconds.checkpoint = saving.spent
        facts = Facts(task, info, seconds, memory.peak(place), [run.run_id for run in runs])
        records = [result(run, k, trainer, facts) for k, run in enumerate(runs)]
        with seconds.of("evaluate"):
            _test(runs, trainer, facts, records)
        for run in runs:
            run.log("writes diagnostics")
        for k, note in ({0: _UNSIGNED} if group else diagnostics.write(runs, trainer, seconds)).items():
            records[k]["notes"].append(note)
        wall = time.perf_counter() - started
        for k, (run, record) in enumerate(zip(runs, records, strict=True)):
            record["cost"] |= facts.seconds.as_cost(wall, trainer.progress.seconds, runs=len(runs))
            if not run.ended:
                _conclude(run, k, trainer, record)
        checkpoint.clear(state)  # last, when nothing needs it any more
        return [record for run, record in zip(runs, records, strict=True) if not run.ended]


def prepared(
    specs: Sequence[RunSpec], load: Loader, place: torch.device | None
) -> tuple[Attached, models.Info, Task]:
    """A pack on its base, the base's facts and the data; `place` is where the model shall be."""
    model, info, task = load(specs[0])
    configs = [run_config(s, steps=total_steps(s.train, task.rows["train"])) for s in specs]
    attached = attach(models.clone(model), configs, device=place, fresh=info.fresh)
    if specs[0].train.gradient_checkpointing:
        attached.model.gradient_checkpointing_enable({"use_reentrant": False})
    return attached, info, task


def _start_together(group: "Group", run: Run, trainer: Trainer) -> None:
    """Go on in all processes from where the first one does."""
    state, run.validation, run.before = group.shared((trainer.state_dict(), run.validation, run.before))
    trainer.load_state_dict(state)


def _agreed(group: "Group", should_stop: Callable[[], bool]) -> bool:
    """Whether all processes stop here, because one was asked to."""
    return group.any(should_stop())


class _Recorder(Callback):
    """Puts the rows and the validations of a pack into its run folders, and shows them."""

    def __init__(
        self, runs: Sequence[Run], trainer: Trainer, task: Task, seconds: Seconds, display: Progress
    ):
        self._runs, self._trainer, self._task = runs, trainer, task
        self._seconds, self._display = seconds, display

    def on_rows(self, k: int, rows: list[dict]) -> None:
        """History first, then the display."""
        self._runs[k].add_rows(rows)
        self._display.step(self._runs[k].run_id, rows[-1]["step"], rows[-1]["loss"])

    def on_validation(self, step: int) -> None:
        """Score the validation split."""
        due = self._trainer.validated(step)
        for k in due:
            self._runs[k].log(f"validates after step {step}")
        with self._seconds.of("evaluate"):
            scores = _evaluate(self._runs, self._trainer, self._task, "validation")
            for k in due:
                self._runs[k].validated(
                    scores[k].metrics, step=step, metric=self._task.metric, goal=self._task.goal
                )


def _evaluate(runs: Sequence[Run], trainer: Trainer, task: Task, split: str) -> list[Scores]:
    """Score the pack; where memory runs out, with half as many rows at a time, down to one."""
    while True:
        train = runs[0].training.train
        try:
            return evaluate(
                trainer.attached.model,
                task,
                split,
                runs=trainer.K,
                precision=train.precision,
                batch_size=train.eval_batch_size,
                examples=train.eval_rows if split == "validation" else None,
            )
        except Exception as error:
            if trainer.group or not is_out_of_memory(error) or not all([r.halve_evaluation() for r in runs]):
                raise
        memory.release()  # not before the traceback is gone, which holds what the attempt did
        for run in runs:
            run.log(run.deviations[-1])


@contextmanager
def _threads(of_spec: int | None, fixed: int | None, folder: Path) -> Iterator[None]:
    """While open, torch computes with the threads of a run: its spec's, the user's, or its checkpoint's."""
    before = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    saved = checkpoint.threads(folder)
    if saved is not None and saved > cores:
        saved = None  # so many would wait for each other: fewer are quicker, and are noted as a deviation
    torch.set_num_threads(of_spec or fixed or saved or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _test(runs: Sequence[Run], trainer: Trainer, facts: Facts, records: Sequence[dict[str, Any]]) -> None:
    """Test the last state of each run that did not diverge, and write its predictions.

    A run that tunes is never tested: what it leaves behind is its validation.
    """
    completed = [k for k, run in enumerate(runs) if records[k]["status"] == "completed" and not run.ended]
    if any(not runs[k].validation for k in completed):  # an older checkpoint, after the last validation
        scores = _evaluate(runs, trainer, facts.task, "validation")
        for k in completed:
            runs[k].validation = scores[k].metrics
    for k in completed:
        runs[k].check_owned()
        records[k]["metrics"] |= prefixed("validation", runs[k].validation)
    to_test = [k for k in completed if runs[k].spec.phase != "tune"]
    if not to_test:
        return
    for k in to_test:
        runs[k].log("tests")
    tested = {name: _evaluate(runs, trainer, task, "test") for name, task in facts.task.tested.items()}
    ids = {name: task.splits["test"].examples for name, task in facts.task.tested.items()}
    after = _beside(runs, trainer, facts.task, "after")
    for k in to_test:
        own = {name: scores[k] for name, scores in tested.items()}
        records[k]["metrics"] |= prefixed("test", overall(own)) | runs[k].before | after[k]
        rows = {name: (ids[name], scores) for name, scores in own.items()}
        write_predictions(runs[k].folder.predictions, rows, check=runs[k].check_owned)


def _beside(runs: Sequence[Run], trainer: Trainer, task: Task, when: str) -> list[dict[str, float]]:
    """What each run scores on the tasks that it is not trained on: "before/wikitext/perplexity" and so on."""
    found: list[dict[str, float]] = [{} for _ in range(trainer.K)]
    for name, other in task.also.items():
        for values, scores in zip(found, _evaluate(runs, trainer, other, "test"), strict=True):
            values |= prefixed(f"{when}/{name}", scores.metrics)
    return found


def _conclude(run: Run, k: int, trainer: Trainer, record: dict[str, Any]) -> None:
    """Adapter, then history, then the record."""
    run.check_owned()
    if record["status"] == "completed":
        _keep(run, k, trainer.attached, record)
        files = [path for path in run.folder.adapter.rglob("*") if path.is_file()]
        record["cost"]["adapter_bytes"] = sum(path.stat().st_size for path in files)
    run.history.close()
    run.check_owned()
    try:
        run.folder.write_record(record, first=True, check=run.check_owned)
    except Taken:
        raise Interrupted from None  # another process took the run over and has ended it
    run.log(f"ended, {record['status']}")
    run.tracker.summary(record["metrics"] | record["cost"])
    run.tracker.finish(record["status"])


def _keep(run: Run, k: int, attached: Attached, record: dict[str, Any]) -> None:
    """Save what was learned, and say in the record how. What goes wrong costs no metrics: it is a deviation.

    A disk that takes no more is the exception: the run ends as failed, and once there is room the same
    command goes on from its checkpoint.
    """
    for keep, what in (
        (save_trained, "the adapter could not be written in PEFT's format"),
        (_save_tensors, "what was learned could not be saved"),
    ):
        try:
            record["adapter"]["kept_as"] = keep(attached, k, run.folder.adapter, check=run.check_owned)
            return
        except Interrupted:
            raise
        except Exception as error:
            if error_kind(error) == "disk" or is_out_of_memory(error):
                raise
            run.deviate(f"{what}: {type(error).__name__}: {error}")


def save_trained(attached: Attached, k: int, folder: Path, *, check: Check = unchecked) -> str | None:
    """Save what run k learned: in PEFT's format if that knows it, else its tensors by name.

    `check` is as in `files.replacing`.

    Returns:
        How: "peft lora", "peft adalora" or "tensors"; None if nothing was learned.
    """
    form = peft_form(attached, k)
    if form is None:
        return _save_tensors(attached, k, folder, check=check)
    with replacing_folder(folder, check=check) as temporary:
        write_peft(attached, k, temporary, form=form, replace=True)
    return f"peft {form}"


def _save_tensors(attached: Attached, k: int, folder: Path, *, check: Check = unchecked) -> str | None:
    tensors = attached.kept(k)
    if not tensors:
        return None
    with replacing(folder / "trained.safetensors", check=check) as temporary:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, temporary)
    return "tensors"
