"""From specs to records: load, attach, train, test, write; one pack at a time, a solo run is a pack of one.

Everything of a run is on the disk before anything else hears of it, and its record comes last: a folder with
a record is a run that ended, whatever the end was.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from experiments import data, models
from experiments.console.progress import Progress
from experiments.files import Taken, replacing
from experiments.spec import RunSpec
from experiments.training import checkpoint, diagnostics, memory
from experiments.training.evaluate import Scores, evaluate, prefixed, write_predictions
from experiments.training.loop import Trainer, run_config, total_steps
from experiments.training.result import Facts, Seconds, is_out_of_memory, result, start_hashes
from experiments.training.run_state import Checkpoints, Interrupted, Run, resume, save
from variants import Attached, attach, loads_stored, peft_form

_prepared: dict[tuple, tuple] = {}


def prepare(spec: RunSpec):
    """The frozen model (shared, not to be changed), its facts, and the encoded task of a spec.

    Kept for the next run. The base is loaded straight into the storage that the run asks for.
    """
    run = run_config(spec, steps=1)
    straight = run if loads_stored(run) else None
    key = (
        spec.model,
        *sorted(spec.model_options.items()),
        spec.dataset,
        *sorted(spec.dataset_options.items()),
        spec.train.base_dropout,
        models.stored_as(straight),
    )
    if key not in _prepared:
        raw = data.read(spec)
        model, tokenizer, info = models.load(
            spec, kind=raw.kind, n_labels=len(raw.labels), labels=raw.labels, straight=straight
        )
        _prepared.clear()  # one base at a time: a sweep over models must not hold them all
        _prepared[key] = model, info, data.encode(raw, tokenizer, spec.dataset_options.get("max_length"))
    return _prepared[key]


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
) -> list[dict[str, Any]]:
    """Train a pack to its end and write each run's record.

    Args:
        runs: The pack; the specs must agree on what a pack shares (model, data, steps, batch, precision).
        display: Shown what happens.
        should_stop: Asked at each step boundary.
        checkpoint_every: Seconds between checkpoints.
        checkpoint_steps: Steps between them, if that comes first. They are written with the rows of the
            history, so at the first multiple of train.log_every from there on.

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
        _threads(specs[0])
        model, info, task = prepare(specs[0])
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
        trainer = _trainer(runs, attached, task, seconds, display, should_stop)
        for k, run in enumerate(runs):
            run.start = start_hashes(trainer, k)
        resume(runs, trainer)
        diagnostics.watch(runs, trainer, seconds)
        for run in runs:
            display.run_started(run.run_id, trainer.steps, done=trainer.progress.step)
        trainer.on_boundary = saving = Checkpoints(runs, trainer, checkpoint_every, checkpoint_steps)
        memory.reset_peak(place)
        trainer.run()
        if trainer.progress.step < trainer.steps and trainer.progress.alive.any():
            save(runs, trainer)
            raise Interrupted
        seconds.checkpoint = saving.spent
        facts = Facts(task, info, seconds, peak=memory.peak(place))
        records = [result(run, k, trainer, facts) for k, run in enumerate(runs)]
        _test(runs, trainer, facts, records)
        for k, note in diagnostics.write(runs, trainer, seconds).items():
            records[k]["notes"].append(note)
        for k, (run, record) in enumerate(zip(runs, records, strict=True)):
            record["cost"] |= facts.seconds.as_cost(time.perf_counter() - started, trainer.progress.seconds)
            _conclude(run, k, trainer, record)
        return records


def _trainer(runs, attached: Attached, task, seconds: Seconds, display: Progress, should_stop) -> Trainer:
    specs = [run.training for run in runs]

    def on_rows(k: int, rows: list[dict]) -> None:
        runs[k].add_rows(rows)
        display.step(runs[k].run_id, rows[-1]["step"], rows[-1]["loss"])

    def on_validation(step: int) -> None:
        started = time.perf_counter()
        for k, scores in enumerate(_evaluate(runs, attached, task, "validation")):
            if trainer.diverged_at[k] is None:
                runs[k].validated(scores, step=step, metric=task.metric, goal=task.goal)
        seconds.evaluate += time.perf_counter() - started

    trainer = Trainer(specs, attached, task.splits["train"], on_rows, on_validation, should_stop)
    return trainer


def _evaluate(runs: Sequence[Run], attached: Attached, task, split: str) -> list[Scores]:
    """Score the pack; where memory runs out, with half as many rows at a time, down to one."""
    while True:
        train = runs[0].training.train
        try:
            return evaluate(
                attached.model,
                task,
                split,
                runs=len(runs),
                precision=train.precision,
                batch_size=train.eval_batch_size,
            )
        except Exception as error:
            if not is_out_of_memory(error) or not all([run.halve_evaluation() for run in runs]):
                raise
        memory.release()  # not before the traceback is gone, which holds what the attempt did
        for run in runs:
            run.log(run.deviations[-1])


def _threads(spec: RunSpec) -> None:
    if spec.train.threads:
        torch.set_num_threads(spec.train.threads)


def _test(runs: Sequence[Run], trainer: Trainer, facts: Facts, records: Sequence[dict[str, Any]]) -> None:
    """Test the last state of each run that did not diverge, and write its predictions.

    A run that tunes is never tested: what it leaves behind is its validation.
    """
    if not trainer.progress.alive.any():
        return
    started = time.perf_counter()
    if any(run.validation is None for run in runs):  # resumed after the last validation: it is in the history
        for run, scores in zip(
            runs, _evaluate(runs, trainer.attached, facts.task, "validation"), strict=True
        ):
            run.validation = scores
    for run, record in zip(runs, records, strict=True):
        if record["status"] == "completed" and run.validation is not None:
            run.check_mine()
            record["metrics"] |= prefixed("validation", run.validation.metrics)
    if any(run.spec.phase != "tune" for run in runs):
        tested = _evaluate(runs, trainer.attached, facts.task, "test")
        for run, record, scores in zip(runs, records, tested, strict=True):
            if record["status"] == "completed" and run.spec.phase != "tune":
                record["metrics"] |= prefixed("test", scores.metrics)
                write_predictions(run.folder.predictions, facts.task, "test", scores)
    facts.seconds.evaluate += time.perf_counter() - started


def _conclude(run: Run, k: int, trainer: Trainer, record: dict[str, Any]) -> None:
    """Adapter, then history, then the record; the checkpoint goes last, when nothing needs it any more."""
    run.check_mine()
    if record["status"] == "completed":
        save_trained(trainer.attached, k, run.folder.adapter)
        files = [path for path in run.folder.adapter.rglob("*") if path.is_file()]
        record["cost"]["adapter_bytes"] = sum(path.stat().st_size for path in files)
    run.history.close()
    run.check_mine()
    try:
        run.folder.write_record(record, first=True)
    except Taken:
        raise Interrupted from None  # another process took the run over and has ended it
    run.log(f"ended, {record['status']}")
    run.tracker.summary(record["metrics"] | record["cost"])
    run.tracker.finish(record["status"])
    checkpoint.clear(run.folder.checkpoint)


def save_trained(attached: Attached, k: int, folder: Path) -> None:
    """What run k learned: in PEFT's format if that knows it, else its tensors by name.

    Nothing if nothing learned.
    """
    form = peft_form(attached, k)
    if form is not None:
        attached.export_peft(k, folder, form=form, replace=True)
        return
    mine = [t for t in attached.trained if t.runs.start <= k < t.runs.stop]
    tensors = {t.name: (t.parameter if t.plain else t.parameter[k - t.runs.start]).detach() for t in mine}
    if tensors:
        with replacing(folder / "trained.safetensors") as temporary:
            save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, temporary)
