"""What a sweep will do and cost, cell by cell, from its specs alone; nothing is started."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from experiments import data
from experiments.config.settings import total_steps
from experiments.sizing.counts import Count, effective_scale
from experiments.spec import RunSpec
from experiments.sweep.plan import Plan, plan
from experiments.sweep.preview.arithmetic import (
    CPU_SPEED,
    GPU_SPEED,
    OVERHEAD,
    disk,
    evaluation_flops,
    memory,
    step_flops,
)
from experiments.sweep.preview.facts import Facts
from experiments.sweep.preview.past import Past, frame
from experiments.sweep.resources import resources

MEASURED, SCALED, ARITHMETIC = "measured", "scaled", "arithmetic"


@dataclass(frozen=True)
class Row:
    """One cell: runs that differ in their seed alone. None is what cannot be told."""

    spec: RunSpec  # of one of them
    seeds: int
    done: int
    count: Count | None
    seconds: float | None  # of one run
    memory: int | None  # bytes at the peak of one run
    disk: int  # bytes of one run's folder
    source: str  # of time and memory: MEASURED, SCALED, ARITHMETIC, or "" where there is none

    @property
    def missing(self) -> int:
        """Runs that are left to do."""
        return self.seeds - self.done

    def as_dict(self) -> dict[str, Any]:
        """For CSV and JSON, one column per fact."""
        s = self.spec
        return {
            "variant": s.variant,
            "r": s.r,
            "matched": s.matched,
            "alpha": s.alpha,
            "scale": effective_scale(s),
            "targets": None if s.targets is None else s.targets_text,
            "model": s.model,
            "dataset": s.dataset,
            "lr": s.lr,
            "phase": s.phase,
            "runs": self.seeds,
            "done": self.done,
            "missing": self.missing,
            "trainable_parameters": self.count and self.count.trained,
            "adapter_parameters": self.count and self.count.adapter,
            "head_parameters": self.count and self.count.head,
            "total_parameters": self.count and self.count.total,
            "share": self.count and self.count.share,
            "seconds_per_run": self.seconds,
            "memory_bytes": self.memory,
            "disk_bytes": self.disk,
            "estimate": self.source or None,
        }


@dataclass(frozen=True)
class Forecast:
    """All cells of a command, and the machine that they would run on."""

    plan: Plan
    rows: tuple[Row, ...]
    workers: int
    speed: float  # operations per second of a worker, where nothing was measured
    gpus: int
    sources: tuple[str, ...]  # how the estimates came about, a sentence each

    @property
    def seconds(self) -> float | None:
        """Of what is missing, the workers side by side; None if a cell's time cannot be told."""
        times = [(row.missing, row.seconds) for row in self.rows if row.missing]
        if any(seconds is None for _, seconds in times):
            return None
        return sum(n * (seconds or 0.0) for n, seconds in times) / self.workers

    @property
    def memory(self) -> int | None:
        """Of the largest cell, once for each worker."""
        peaks = [row.memory for row in self.rows if row.memory is not None]
        return max(peaks) * self.workers if peaks else None

    @property
    def disk(self) -> int:
        """Of what is missing."""
        return sum(row.missing * row.disk for row in self.rows)


def forecast(
    specs: Sequence[RunSpec],
    facts: Facts,
    *,
    root: Path,
    workers: int | str = "auto",
    speed: float | None = None,
) -> Forecast:
    """Snapshot ahead at a sweep.

    Args:
        specs: All cells, equal ones included.
        facts: What is known of models and data.
        root: The folder of all studies, where earlier runs are looked for.
        workers: As the command's key.
        speed: Operations per second of a worker, for cells like which none was run; None for the default.
    """
    todo = plan(specs, fingerprints=data.fingerprint, root=root)
    size, threads, gpus = resources(workers, max(1, len(todo.todo)))
    if speed is None:
        speed = GPU_SPEED if gpus else CPU_SPEED * threads
    estimate = _Estimate(facts, Past(root), speed=speed, accelerator=bool(gpus))
    cells: dict[str, list[tuple[RunSpec, bool]]] = {}
    for part, done in ((todo.done, True), (todo.todo, False)):
        for spec, _ in part:
            cells.setdefault(spec.cell_key(), []).append((spec, done))
    order = {key: i for i, key in enumerate(dict.fromkeys(spec.cell_key() for spec in specs))}
    rows = [estimate.row(runs) for _, runs in sorted(cells.items(), key=lambda item: order[item[0]])]
    return Forecast(todo, tuple(rows), size, speed, len(gpus), tuple(estimate.sources(rows)))


class _Estimate:
    """Time and memory of cells: from runs of the same shape, else scaled from others, else by arithmetic."""

    def __init__(self, facts: Facts, past: Past, *, speed: float, accelerator: bool):
        self.facts, self.past, self.speed, self.accelerator = facts, past, speed, accelerator
        self._speeds: dict[Any, float | None] = {}
        self._studies: dict[str, None] = {}
        self._runs = 0

    def row(self, runs: Sequence[tuple[RunSpec, bool]]) -> Row:
        """The forecast of one cell from its runs, each with whether it is done."""
        spec, task = runs[0][0], self.facts.task(runs[0][0])
        count, steps = self.facts.count(spec), total_steps(spec.train, task.train)
        seconds, peak, source = self._measured(spec, steps) or self._counted(spec, count, steps)
        done = sum(ended for _, ended in runs)
        return Row(spec, len(runs), done, count, seconds, peak, disk(spec, count, task, steps), source)

    def _measured(self, spec: RunSpec, steps: int) -> tuple[float, int | None, str] | None:
        like = self.past.like(spec, self.facts.task(spec).rows)
        if like is None:
            return None
        self._studies.update(dict.fromkeys(like.studies))
        self._runs += like.runs
        seconds = steps * like.step_seconds + like.evaluation_seconds + like.other_seconds
        return seconds, like.memory, MEASURED

    def _counted(
        self, spec: RunSpec, count: Count | None, steps: int
    ) -> tuple[float | None, int | None, str]:
        skeleton, task = self.facts.skeleton(spec), self.facts.task(spec)
        if skeleton is None or count is None:
            return None, None, ""
        length, causal = self.facts.length(spec), not task.classes
        own = self._own_speed(spec)
        flops = steps * step_flops(spec, skeleton, count, length, causal=causal)
        flops += evaluation_flops(spec, skeleton, count, task, length, causal=causal)
        peak = memory(spec, skeleton, count, task, length, accelerator=self.accelerator)
        return flops / (own or self.speed) + OVERHEAD, peak, SCALED if own else ARITHMETIC

    def _own_speed(self, spec: RunSpec) -> float | None:
        """Operations per second that other methods reached on the same model, data and batch."""
        task = self.facts.task(spec)
        key = frame(spec, task.rows)
        if key not in self._speeds:
            skeleton = self.facts.skeleton(spec)
            length, speeds = self.facts.length(spec), []
            for other, seconds in self.past.frames(spec, task.rows):
                count = self.facts.count_on(other, spec)
                if skeleton is not None and count is not None and seconds > 0:
                    flops = step_flops(other, skeleton, count, length, causal=not task.classes)
                    speeds.append(flops / seconds)
            self._speeds[key] = median(speeds) if speeds else None
        return self._speeds[key]

    def sources(self, rows: Sequence[Row]) -> list[str]:
        """Where the estimates are from."""
        n = {source: sum(row.source == source for row in rows) for source in (MEASURED, SCALED, ARITHMETIC)}
        lines = []
        if n[MEASURED]:
            lines.append(
                f"{n[MEASURED]} of {len(rows)} cells: medians of {self._runs} earlier runs of the same shape "
                f"on this machine ({', '.join(sorted(self._studies))})"
            )
        if n[SCALED]:
            lines.append(
                f"{n[SCALED]} of {len(rows)} cells: by their operations, at the speed that other methods "
                "reached here on the same model, data and batch"
            )
        if n[ARITHMETIC]:
            lines.append(
                f"{n[ARITHMETIC]} of {len(rows)} cells: by their operations, at an assumed "
                f"{self.speed / 1e9:,.0f} GFLOP/s per worker (--speed states another)"
            )
        unknown = len(rows) - sum(n.values())
        if unknown:
            lines.append(
                f"{unknown} of {len(rows)} cells have no estimate: the model's safetensors files are not on "
                "this machine, its targets match nothing, or its method is not known here"
            )
        return lines
