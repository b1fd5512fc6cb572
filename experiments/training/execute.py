"""From specs to records: load, attach, train, test, write; one pack at a time, a solo run is a pack of one.

Everything of a run is on the disk before anything else hears of it, and its record comes last: a folder with
a record is a run that ended, whatever the end was.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from experiments import models
from experiments.console.progress import Progress
from experiments.data import Task
from experiments.files import Taken, replacing, replacing_folder
from experiments.training import checkpoint, diagnostics, memory
from experiments.training.evaluate import Scores, evaluate, prefixed, write_predictions
from experiments.training.loader import Loader
from experiments.training.loop import Callback, Trainer, run_config, total_steps
from experiments.training.result import Facts, Seconds, result, start_hashes
from experiments.training.run_state import Checkpoints, Interrupted, Run, resume, save
from variants import Attached, attach, peft_form, write_peft


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
    loader: Loader | None = None,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Train a pack to its end and write each run's record.

    Args:
        runs: The pack; the specs must agree on what a pack shares (model, data, steps, batch, precision).
        display: Shown what happens.
        should_stop: Called at each step boundary.
        checkpoint_every: Seconds between checkpoints.
        checkpoint_steps: Steps between them, if that comes first. They are written with the rows of the
            history, so at the first multiple of train.log_every from there on.
        loader: Where bases and data come from; one of its own if None.
        threads: How many the user fixed; None: as many as the run's checkpoint was made with, so that it
            resumes to the bit, else as many as torch has.

    Returns:
        The records as written.

    Raises:
        Interrupted: `should_stop` said so and the state is in the checkpoint; or the run is another process's
            by now, and nothing was written.
    """
    started = time.perf_counter()
    seconds = Seconds()
    with ExitStack() as stack:
        for run in runs:
            stack.callback(run.history.close)
            run.begin()
        specs = [run.training for run in runs]
        stack.enter_context(_threads(runs[0], threads))
        model, info, task = (loader or Loader())(specs[0])
        place = device()
        steps = total_steps(specs[0].train, task.rows["train"])
        attached = attach(
            models.clone(model),
            [run_config(s, steps=steps) for s in specs],
            device=place,
            fresh=info.fresh,
        )
        if specs[0].train.gradient_checkpointing:
            attached.model.gradient_checkpointing_enable({"use_reentrant": False})
        seconds.load = time.perf_counter() - started
        trainer = Trainer(specs, attached, task.splits["train"])
        for k, run in enumerate(runs):
            run.start = start_hashes(trainer, k)
        for text in resume(runs, trainer):
            display.note(text)
        for run in runs:
            display.run_started(run.run_id, trainer.steps, done=trainer.progress.step)
        saving = Checkpoints(runs, trainer, checkpoint_every, checkpoint_steps)
        callbacks = [
            _Recorder(runs, trainer, task, seconds, display),
            diagnostics.Signatures(runs, trainer, seconds),
            saving,
        ]
        memory.reset_peak(place)
        trainer.run(callbacks, should_stop=should_stop)
        if trainer.progress.step < trainer.steps and trainer.progress.alive.any():
            save(runs, trainer)
            raise Interrupted
        seconds.checkpoint = saving.spent
        facts = Facts(task, info, seconds, peak=memory.peak(place))
        records = [result(run, k, trainer, facts) for k, run in enumerate(runs)]
        with seconds.of("evaluate"):
            _test(runs, trainer, facts, records)
        for k, note in diagnostics.write(runs, trainer, seconds).items():
            records[k]["notes"].append(note)
        for k, (run, record) in enumerate(zip(runs, records, strict=True)):
            record["cost"] |= facts.seconds.as_cost(time.perf_counter() - started, trainer.progress.seconds)
            _conclude(run, k, trainer, record)
        return records


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
        with self._seconds.of("evaluate"):
            scores = _evaluate(self._trainer, self._task, "validation")
            for k, run in enumerate(self._runs):
                if self._trainer.diverged_at[k] is None:
                    run.validated(scores[k], step=step, metric=self._task.metric, goal=self._task.goal)


def _evaluate(trainer: Trainer, task: Task, split: str) -> list[Scores]:
    train = trainer.specs[0].train
    return evaluate(
        trainer.attached.model,
        task,
        split,
        runs=trainer.K,
        precision=train.precision,
        batch_size=train.eval_batch_size,
    )


@contextmanager
def _threads(run: Run, fixed: int | None) -> Iterator[None]:
    """While open, torch computes with the threads of a run: its spec's, the user's, or its checkpoint's."""
    before = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    saved = checkpoint.threads(run.folder.checkpoint)
    if saved is not None and saved > cores:
        saved = None  # so many would wait for each other: fewer are quicker, and are noted as a deviation
    torch.set_num_threads(run.spec.train.threads or fixed or saved or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _test(runs: Sequence[Run], trainer: Trainer, facts: Facts, records: Sequence[dict[str, Any]]) -> None:
    """Test the last state of each run that did not diverge, and write its predictions.

    A run that tunes is never tested: what it leaves behind is its validation.
    """
    if not trainer.progress.alive.any():
        return
    if any(run.validation is None for run in runs):  # resumed after the last validation: it is in the history
        for run, scores in zip(runs, _evaluate(trainer, facts.task, "validation"), strict=True):
            run.validation = scores
    for run, record in zip(runs, records, strict=True):
        if record["status"] == "completed" and run.validation is not None:
            run.check_owned()
            record["metrics"] |= prefixed("validation", run.validation.metrics)
    if any(run.spec.phase != "tune" for run in runs):
        tested = _evaluate(trainer, facts.task, "test")
        for run, record, scores in zip(runs, records, tested, strict=True):
            if record["status"] == "completed" and run.spec.phase != "tune":
                record["metrics"] |= prefixed("test", scores.metrics)
                write_predictions(run.folder.predictions, facts.task, "test", scores, check=run.check_owned)


def _conclude(run: Run, k: int, trainer: Trainer, record: dict[str, Any]) -> None:
    """Adapter, then history, then the record; the checkpoint goes last, when nothing needs it any more."""
    run.check_owned()
    if record["status"] == "completed":
        save_trained(trainer.attached, k, run.folder.adapter, check=run.check_owned)
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
    checkpoint.clear(run.folder.checkpoint)


def save_trained(
    attached: Attached, k: int, folder: Path, *, check: Callable[[], object] = lambda: None
) -> None:
    """What run k learned: in PEFT's format if that knows it, else its tensors by name.

    Nothing if nothing learned. `check` is as in `files.replacing`.
    """
    form = peft_form(attached, k)
    if form is not None:
        with replacing_folder(folder, check=check) as temporary:
            write_peft(attached, k, temporary, form=form, replace=True)
        return
    mine = [t for t in attached.trained if t.runs.start <= k < t.runs.stop]
    tensors = {t.name: (t.parameter if t.plain else t.parameter[k - t.runs.start]).detach() for t in mine}
    if tensors:
        with replacing(folder / "trained.safetensors", check=check) as temporary:
            save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, temporary)
