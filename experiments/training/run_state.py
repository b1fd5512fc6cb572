"""Runs under way: their folders, their validation so far, and how they are saved and go on."""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from experiments import provenance, tracking
from experiments.files import remove_temporaries
from experiments.history import History
from experiments.record import RunFolder
from experiments.spec import RunSpec
from experiments.training import checkpoint
from experiments.training.evaluate import prefixed
from experiments.training.loop import Callback, Trainer


class Interrupted(Exception):
    """The run stopped before its end; the same command goes on from where it stood."""


@dataclass
class Run:
    """One run of the pack while it is under way. `owned` is false once another process has taken it over.

    `ended` is a run that has its record already and trains along with its pack: it writes nothing.
    """

    spec: RunSpec
    run_id: str
    folder: RunFolder
    tracker: tracking.Tracker
    owned: Callable[[], bool] = lambda: True
    ended: bool = False
    history: History = field(init=False)
    micro_batch_size: int | None = None  # smaller than the spec's after the memory ran out; the batch stays
    eval_batch_size: int | None = None  # smaller than the spec's after an evaluation ran out of memory
    deviations: list[str] = field(default_factory=list)  # where the run departs from its spec, for its record
    notes: list[str] = field(default_factory=list)  # what else a reader of its record should know
    start: dict[str, str] = field(default_factory=dict)  # hashes of the seed's first adapter and batch
    validation: dict[str, float] = field(default_factory=dict)  # the metrics of the last one
    before: dict[str, float] = field(default_factory=dict)  # on the tasks beside its own, before training
    best: dict[str, float] = field(default_factory=dict)  # the best validation so far, and at which step
    signatures: dict[str, Tensor] = field(default_factory=dict)  # see experiments.training.diagnostics

    def __post_init__(self):
        self.history = History(self.folder.history)

    @property
    def training(self) -> RunSpec:
        """The spec as it is carried out: where fewer rows at a time are trained, fewer are evaluated, too."""
        train, micro, evaluated = self.spec.train, self.micro_batch_size, self.eval_batch_size
        if micro is not None:
            rows = train.micro_batch_size or train.batch_size
            train = replace(
                train, micro_batch_size=micro, eval_batch_size=max(1, train.eval_batch_size * micro // rows)
            )
        if evaluated is not None:
            train = replace(train, eval_batch_size=min(evaluated, train.eval_batch_size))
        return replace(self.spec, train=train)

    def halve(self, multiple: int = 1) -> bool:
        """Go on with half as many rows at a time, a `multiple`, and the same batch.

        False if there is nothing left to halve.
        """
        train = self.training.train
        rows = train.micro_batch_size or train.batch_size
        smaller = next(
            (n for n in range(rows // 2, 0, -1) if train.batch_size % n == 0 == n % multiple), None
        )
        if smaller is None:
            return False
        self.micro_batch_size = smaller
        self.deviate(
            f"out of memory with {rows} rows at a time: went on with {smaller}, gradients accumulated to the "
            f"same batch, and evaluated {self.training.train.eval_batch_size} at a time"
        )
        return True

    def halve_evaluation(self) -> bool:
        """Go on with half as many rows in an evaluation, and with training as it is; False at one row."""
        rows = self.training.train.eval_batch_size
        if rows == 1:
            return False
        self.eval_batch_size = rows // 2
        self.deviate(
            f"out of memory evaluating {rows} rows at a time: went on with {self.eval_batch_size}; training "
            "is as it was"
        )
        return True

    def deviate(self, *texts: str) -> None:
        """Note where the run departs from its spec, each departure once."""
        self.deviations += [text for text in texts if text not in self.deviations]

    def check_owned(self) -> None:
        """Before anything is written: Interrupted if another process has taken the run over.

        Also if one that had it before woke up late and replaced the history: the run is then done again from
        its last checkpoint that fits.
        """
        if not self.owned() or (self.history.is_replaced() and not self.ended):
            raise Interrupted

    def begin(self) -> None:
        """The spec on the disk, without the remains of a kill or a failure; then the tracker."""
        self.check_owned()
        if self.ended:
            return
        spec, record = self.spec, self.spec.as_record()
        remove_temporaries(self.folder.path)
        self.folder.write_spec(record, check=self.check_owned)
        self.folder.drop_failure()
        self.tracker.start(self.run_id, record, labels=tracking.labels_of(spec), folder=self.folder.path)

    def log(self, text: str) -> None:
        """A line for people, with the time."""
        if self.ended:
            return
        with self.folder.log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def cut_history(self, size: int) -> None:
        """Drop the rows that the state which the run goes on from does not know."""
        self.check_owned()
        if not self.ended:
            self.history.cut(size, check=self.check_owned)

    def add_rows(self, rows: Sequence[dict]) -> None:
        """History first, then whoever else listens."""
        self.check_owned()
        for row in rows if not self.ended else ():
            self.history.append(row)
            self.tracker.log(row, row["step"])

    def validated(self, metrics: dict[str, float], *, step: int, metric: str, goal: str) -> None:
        """Note what validation gave after `step`, and whether it is the best so far."""
        self.validation = metrics
        values = prefixed("validation", metrics)
        sign = 1 if goal == "max" else -1
        value = metrics[metric]
        if not self.best or sign * value > sign * self.best[f"best/validation/{metric}"]:
            self.best = {f"best/validation/{metric}": value, "best/step": step}
        self.add_rows([{"step": step, **values}])


def save(runs: Sequence[Run], trainer: Trainer, folder: Path) -> None:
    """One checkpoint for the pack, once all histories are on the disk."""
    check_owned(runs)
    state = {
        "runs": [run.run_id for run in runs],
        "trainer": trainer.state_dict(),
        "validation": [run.validation for run in runs],
        "best": [run.best for run in runs],
        "before": [run.before for run in runs],
        "histories": [run.history.mark() for run in runs],
        "signatures": [run.signatures for run in runs],
        "deviations": [run.deviations for run in runs],
        "code_sha256": _code(),
        "threads": torch.get_num_threads(),
        "processes": trainer.group.size if trainer.group else 1,
    }
    step = trainer.progress.step
    checkpoint.save(folder, step=step, state=state, check=lambda: check_owned(runs))


def check_owned(runs: Sequence[Run]) -> None:
    """Interrupted unless all runs of a pack are still this process's."""
    for run in runs:
        run.check_owned()


def resume(runs: Sequence[Run], trainer: Trainer, folder: Path) -> list[str]:
    """Go on from the newest checkpoint that is complete and whose histories are still there, or start afresh.

    Histories are cut back to where the state is.

    Returns:
        A sentence for each checkpoint that was set aside; they are in the records' notes, too.
    """
    check_owned(runs)  # the model took a while to load
    state, set_aside = checkpoint.load(folder, lambda state: _restore(state, runs, trainer))
    after = f"went on after step {trainer.progress.step} with"
    changed = []
    if state is not None and state["code_sha256"] != _code():
        changed.append(f"{after} other code than it began with")
    if state is not None and state.get("threads") not in (None, now := torch.get_num_threads()):
        changed.append(f"{after} {now} threads instead of {state['threads']}, whose sums round otherwise")
    now = trainer.group.size if trainer.group else 1
    if state is not None and state.get("processes", now) != now:
        changed.append(f"{after} fsdp={now} instead of {state['processes']}, whose sums round otherwise")
    for k, run in enumerate(runs):
        run.best = state["best"][k] if state else {}
        run.validation = state["validation"][k] if state and "validation" in state else {}
        run.before = state["before"][k] if state and "before" in state else {}
        run.signatures = state["signatures"][k] if state else {}
        run.deviate(*(state["deviations"][k] if state else []), *changed)
        run.cut_history(state["histories"][k][0] if state else 0)
    for run, steps in zip(runs, trainer.ends, strict=True):
        run.notes += set_aside
        for text in set_aside:
            run.log(text)
        run.log(f"starts at step {min(steps, trainer.progress.step)} of {steps}")
    return set_aside


def _restore(state: dict, runs: Sequence[Run], trainer: Trainer) -> None:
    """Put the trainer back to where a state was taken.

    Raises:
        Exception: Of whatever kind: the state cannot be used. The trainer is as it was.
    """
    ids, marks = [run.run_id for run in runs], state["histories"]
    if state.get("runs", ids[:1]) != ids or len(marks) != len(runs):  # older ones are those of solo runs
        raise checkpoint.Unusable("it is of another run")
    if not all(run.history.holds(*mark) for run, mark in zip(runs, marks, strict=True)):
        raise checkpoint.Unusable("the history that belongs to it is not there")
    if not {"best", "signatures", "deviations", "code_sha256"} <= state.keys():
        raise checkpoint.Unusable("it lacks what this version needs")
    if _layout(state["trainer"]) != _layout(trainer.state_dict()):
        raise checkpoint.Unusable("it is of another model or method")
    before = io.BytesIO()
    torch.save(trainer.state_dict(), before)
    try:
        trainer.load_state_dict(state["trainer"])
    except Exception:
        before.seek(0)
        trainer.load_state_dict(torch.load(before, weights_only=True, map_location="cpu"))
        raise


def _layout(state: dict) -> tuple:
    """What two states of one pack have in common: keys, and shapes of what the optimiser holds."""
    optimiser = state["optimiser"]
    tensors = [
        state["alive"],
        optimiser["steps"],
        *(tensor for flat in optimiser["flats"] for tensor in flat),
    ]
    shapes = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
    return sorted(state), shapes, [sorted(controller) for controller in state["controllers"]]


def _code() -> str:
    return str(provenance.collect().get("code_sha256"))


@dataclass
class Checkpoints(Callback):
    """Saves the pack whenever `seconds` have passed, or `steps` (None: by the time alone).

    `spent` is how many seconds that took.
    """

    runs: Sequence[Run]
    trainer: Trainer
    folder: Path
    seconds: float
    steps: int | None = None

    def __post_init__(self):
        self._last, self._step = time.monotonic(), self.trainer.progress.step
        self.spent = 0.0

    def on_boundary(self) -> None:
        """Save, if it is time."""
        step = self.trainer.progress.step
        many = self.steps is not None and step - self._step >= self.steps
        if many or time.monotonic() - self._last >= self.seconds:
            started = time.monotonic()
            save(self.runs, self.trainer, self.folder)
            self._last, self._step = time.monotonic(), step
            self.spent += self._last - started
