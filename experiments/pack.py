"""Runs under way: their folders, their validation so far, and how they are saved and go on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from experiments import checkpoint, trackers
from experiments.evaluate import Scores, prefixed
from experiments.history import History
from experiments.record import RunFolder
from experiments.spec import RunSpec
from experiments.train import Trainer


@dataclass
class Run:
    """One run of the pack while it is under way."""

    spec: RunSpec
    run_id: str
    folder: RunFolder
    tracker: trackers.Tracker
    history: History = field(init=False)
    micro_batch_size: int | None = None  # smaller than the spec's after the memory ran out; the batch stays
    deviations: list[str] = field(default_factory=list)  # where the run departs from its spec, for its record
    start: dict[str, str] = field(
        default_factory=dict
    )  # hashes of what the seed gave: first adapter, first batch
    validation: Scores | None = None
    best: dict[str, float] = field(default_factory=dict)  # the best validation so far, and at which step
    signatures: dict[str, Tensor] = field(default_factory=dict)  # see experiments.signatures

    def __post_init__(self):
        self.history = History(self.folder.history)

    @property
    def training(self) -> RunSpec:
        """The spec as it is carried out."""
        if self.micro_batch_size is None:
            return self.spec
        return replace(self.spec, train=replace(self.spec.train, micro_batch_size=self.micro_batch_size))

    def halve(self) -> bool:
        """Go on with half as many rows at a time and the same batch.

        False if there is nothing left to halve.
        """
        train = self.training.train
        rows = train.micro_batch_size or train.batch_size
        smaller = next((n for n in range(rows // 2, 0, -1) if train.batch_size % n == 0), None)
        if smaller is None:
            return False
        self.micro_batch_size = smaller
        self.deviations.append(
            f"out of memory with {rows} rows at a time: went on with {smaller}, "
            f"gradients accumulated to the same batch"
        )
        return True

    def begin(self) -> None:
        """The spec on the disk, then the tracker."""
        spec, record = self.spec, self.spec.as_record()
        self.folder.write_spec(record)
        self.tracker.start(
            self.run_id,
            record,
            group=spec.cell(),
            name=f"{spec.cell()}-s{spec.seed}",
            tags=[spec.study, spec.variant, spec.dataset, spec.model],
            folder=self.folder.path,
        )

    def log(self, text: str) -> None:
        """A line for people, with the time."""
        with self.folder.log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def add_rows(self, rows: Sequence[dict]) -> None:
        """History first, then whoever else listens."""
        for row in rows:
            self.history.append(row)
            self.tracker.log(row, row["step"])

    def validated(self, scores: Scores, *, step: int, metric: str, goal: str) -> None:
        """Note what validation gave after `step`, and whether it is the best so far."""
        self.validation = scores
        values = prefixed("validation", scores.metrics)
        sign = 1 if goal == "max" else -1
        value = scores.metrics[metric]
        if not self.best or sign * value > sign * self.best[f"best/validation/{metric}"]:
            self.best = {f"best/validation/{metric}": value, "best/step": step}
        self.add_rows([{"step": step, **values}])


def save(runs: Sequence[Run], trainer: Trainer) -> None:
    """One checkpoint for the pack, in the folder of its first run, once all histories are on the disk."""
    for run in runs:
        run.history.sync()
    state = {
        "trainer": trainer.state_dict(),
        "best": [run.best for run in runs],
        "signatures": [run.signatures for run in runs],
    }
    checkpoint.save(runs[0].folder.checkpoint, step=trainer.progress.step, state=state)


def resume(runs: Sequence[Run], trainer: Trainer) -> None:
    """Go on from the newest whole checkpoint, or start afresh.

    Histories are cut back to where the state is.
    """
    state = checkpoint.load(runs[0].folder.checkpoint)
    if state is not None:
        trainer.load_state_dict(state["trainer"])
        for run, best, signatures in zip(runs, state["best"], state["signatures"], strict=True):
            run.best, run.signatures = best, signatures
    else:
        for run in runs:  # of an attempt that left no checkpoint
            run.best, run.signatures = {}, {}
    for run in runs:
        if run.folder.history.exists():
            run.history.truncate_after(trainer.progress.step)
        run.log(f"starts at step {trainer.progress.step} of {trainer.steps}")


@dataclass
class Checkpoints:
    """Saves the pack whenever `every` seconds have passed."""

    runs: Sequence[Run]
    trainer: Trainer
    every: float
    last: float = field(default_factory=time.monotonic)

    def __call__(self) -> None:
        if time.monotonic() - self.last >= self.every:
            save(self.runs, self.trainer)
            self.last = time.monotonic()
