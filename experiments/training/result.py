"""What the record of a run says: its result, or how it failed."""

import errno
import hashlib
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from experiments import provenance
from experiments.config.short import command_of
from experiments.data import Task
from experiments.errors import UserError
from experiments.files import Taken
from experiments.models import Info
from experiments.stopwatch import quartiles
from experiments.training.loop import Trainer
from experiments.training.memory import is_out_of_memory
from experiments.training.run_state import Interrupted, Run


@dataclass
class Seconds:
    """Where the time of a pack went."""

    load: float = 0.0
    evaluate: float = 0.0
    signatures: float = 0.0
    checkpoint: float = 0.0

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Count what passes inside to a part."""
        started = time.perf_counter()
        yield
        setattr(self, part, getattr(self, part) + time.perf_counter() - started)

    def as_cost(self, wall: float, train: float, *, runs: int = 1) -> dict[str, float]:
        """The figures of one of `runs` runs, its share; what is left over is the harness's own."""
        other = max(0.0, wall - train - self.load - self.evaluate - self.signatures - self.checkpoint)
        seconds = {
            "load_seconds": self.load,
            "evaluate_seconds": self.evaluate,
            "signatures_seconds": self.signatures,
            "checkpoint_seconds": self.checkpoint,
            "harness_seconds": other,
            "wall_seconds": wall,
        }
        return {name: value / runs for name, value in seconds.items()}


@dataclass
class Facts:
    """What the records of a pack have in common."""

    task: Task
    info: Info
    seconds: Seconds
    peak: int | None  # bytes
    pack: list[str]  # the run_ids, in the order of the run axis


def result(run: Run, k: int, trainer: Trainer, facts: Facts) -> dict[str, Any]:
    """The record of run k, but for its test metrics and the last of its costs.

    Seconds are a run's share of its pack's. What cannot be shared out, the speed and the peak of memory, is
    the pack's and stands there: it says nothing of a single run. Beside the median step time are its
    quartiles, and what tells whether other work ran on the machine meanwhile (`Stopwatch.facts`).
    """
    task, attached, progress = facts.task, trainer.attached, trainer.progress
    trainable = attached.count(k)
    heads = [t for t in attached.trained if t.role.startswith("head") and t.runs.start <= k < t.runs.stop]
    size = len(trainer.specs)
    measured = {
        **quartiles(progress.interval_ms),
        **progress.watch.facts(on_cpu=trainer.device.type == "cpu"),
        "tokens_per_second": progress.tokens / progress.seconds if progress.seconds else None,
        "peak_bytes": facts.peak,
    }
    cost = {
        "train_seconds": progress.seconds / size,
        **(measured if size == 1 else {}),
        "trainable_parameters": trainable,
        "adapter_parameters": trainable
        - sum(t.parameter.numel() if t.plain else t.parameter[0].numel() for t in heads),
        "total_parameters": facts.info.parameters + (0 if run.spec.method == "full" else trainable),
        "base_bytes": attached.base_bytes(),
    }
    diverged = trainer.diverged_at[k]
    record: dict[str, Any] = {
        "run_id": run.run_id,
        "study": run.spec.study,
        "status": "completed" if diverged is None else "diverged",
        "spec": run.spec.as_record(),
        "command": command_of(run.spec),
        "primary": {"metric": task.metric, "goal": task.goal},
        "task": task.described,
        "metrics": dict(run.best),
        "cost": cost,
        "data": {f"{split}_sha256": value for split, value in task.sha256.items()}
        | {f"{split}_rows": value for split, value in task.rows.items()}
        | {"max_length": task.max_length, "labels": task.labels or None},
        "env": provenance.collect(),
        "model": {"source": facts.info.source, "sha256": facts.info.sha256},
        "adapter": attached.summary(k),
        "optimiser": trainer.optimiser.described,
        "notes": [*attached.notes(k), *facts.info.notes, *task.notes, *run.notes],
        "deviations": run.deviations,
        "start": run.start,
    }
    if trainer.group is not None:
        record["fsdp"] = trainer.group.size
    if size > 1:
        record["pack"] = {"runs": facts.pack, **measured}
    if diverged is not None:
        record["error"] = {
            "kind": "diverged",
            "message": f"loss or gradient was not finite at step {diverged}",
        }
    return record


def start_hashes(trainer: Trainer, k: int) -> dict[str, str]:
    """Proof that the seed reached what it should.

    Hashes of the adapter before the first step and of the first batch.
    """
    adapter = hashlib.sha256()
    for _, own in sorted(trainer.attached.tensors(k).items()):
        adapter.update(own.contiguous().cpu().numpy().tobytes())
    order = trainer.orders[k].take(0, trainer.train.batch_size)
    ids = "\n".join(trainer.train_split.ids[i] for i in order.tolist())
    return {
        "step0_adapter_sha256": adapter.hexdigest(),
        "first_batch_sha256": hashlib.sha256(ids.encode()).hexdigest(),
    }


def error_kind(error: Exception) -> str:
    """What ended a run, in a word: disk, user, or the exception's own name."""
    cause = error.__cause__ if isinstance(error, UserError) else error
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "disk"
    return "user" if isinstance(error, UserError) else type(error).__name__


def fail(run: Run, error: Exception) -> dict[str, Any] | None:
    """The record of a run that an exception ended.

    Status, kind, text, traceback, and the command that repeats it alone. Where the disk takes nothing any
    more the record is only returned; whatever checkpoint there is stays. None, and nothing written, if
    another process has taken the run over.
    """
    record: dict[str, Any] = {
        "run_id": run.run_id,
        "study": run.spec.study,
        "status": "oom" if is_out_of_memory(error) else "failed",
        "spec": run.spec.as_record(),
        "command": command_of(run.spec),
        "env": provenance.collect(),
        "deviations": run.deviations,
        "error": {
            "kind": error_kind(error),
            "message": str(error) or type(error).__name__,
            "traceback": "".join(traceback.format_exception(error)),
            "repeat": run.folder.repeat,
        },
    }
    try:
        run.folder.write_record(record, first=True, check=run.check_owned)
        run.log(record["error"]["traceback"])
    except (Taken, Interrupted):
        return None  # another process took the run over: that stands
    except (UserError, OSError) as unwritten:
        record["error"]["message"] += f" (and its record was not written: {unwritten})"
    run.tracker.finish(record["status"])
    return record
