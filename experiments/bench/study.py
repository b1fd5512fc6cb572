"""A training step of every cell of a study, in turn: step times that other work on the machine cannot bias.

Runs note their step times one after the other, so that work beside some of them looks like a property of
their variants. Here every cell takes a step in every round; a round's times are divided by how slow the whole
round was. The result, `step_times.json` in the study's folder, is what `analysis.runs.timing` reads:

    machine, rounds     where, and how often each took its turn
    runs                by run_id, for all runs of a cell: step_ms, step_ms_low, step_ms_high (quartiles)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import record
from experiments.bench.table import machine
from experiments.bench.turns import in_turn
from experiments.config.settings import total_steps
from experiments.errors import UserError, typed
from experiments.files import write_json
from experiments.spec import RunSpec, from_record
from experiments.training.loader import Loader
from experiments.training.pace import advance, trainer_of

FILE = "step_times.json"
WARM_UP = 3  # rounds that do not count
BEGIN = 0.3  # of a run: where a method that prunes on the way is neither at its start nor done


def measure(study: Path, *, rounds: int, threads: int = 0) -> None:
    """Measure the cells of a study, print their times and write them into its folder.

    Args:
        study: Its folder.
        rounds: How often each cell takes its turn.
        threads: Of torch; 0: as many as it takes.

    Raises:
        UserError: There is no completed run of ours, or its model or data cannot be loaded.
    """
    if threads:
        torch.set_num_threads(threads)
    cells = _cells(study)
    times: dict[str, Sequence[float]] = {}
    for same in _by_model_and_data(cells):
        loaders: dict[tuple[Any, ...], Loader] = {}
        steps: dict[str, Callable[[], None]] = {}
        for name in same:
            spec = cells[name][0]
            step = _step(spec, loaders.setdefault(spec.base_key(), Loader()), rounds)
            steps |= {name: step} if step else {}
        times |= without_slow_rounds(in_turn(steps, rounds=rounds, warmup=WARM_UP)) if steps else {}
    quartiles = {name: [float(q) for q in np.quantile(own, (0.25, 0.5, 0.75))] for name, own in times.items()}
    found = {
        run: {"step_ms": middle, "step_ms_low": low, "step_ms_high": high}
        for name, (low, middle, high) in quartiles.items()
        for run in cells[name][1]
    }
    write_json(study / FILE, {"machine": machine(), "rounds": rounds, "runs": found})
    width = max(map(len, cells))
    for name, (low, middle, high) in sorted(quartiles.items(), key=lambda item: item[1][1]):
        print(f"{name.ljust(width)}  {middle:.4g} ms ({low:.4g} to {high:.4g})")
    print(f"On {machine()}. The report takes these times: python -m analysis.report {typed(study)}")


def _cells(study: Path) -> dict[str, tuple[RunSpec, list[str]]]:
    """A spec of each cell with the run_ids of its completed runs, by a name for people."""
    cells: dict[str, tuple[RunSpec, list[str]]] = {}
    for found in record.records(study):
        if found["status"] == "completed" and found.get("phase") != "tune" and "source" not in found:
            spec = from_record(found["spec"])
            name = f"{spec.cell()}-{spec.cell_key()[:4]}"
            cells.setdefault(name, (replace(spec, seed=0), []))[1].append(found["run_id"])
    if not cells:
        raise UserError(f"no run of {study} is completed, so there is nothing to measure: complete one.")
    return cells


def _by_model_and_data(cells: Mapping[str, tuple[RunSpec, list[str]]]) -> list[list[str]]:
    """The cells that are compared by time: those of one model on one dataset."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, (spec, _) in cells.items():
        groups.setdefault((spec.model_key(), spec.data_key()), []).append(name)
    return list(groups.values())


def _step(spec: RunSpec, load: Loader, rounds: int) -> Callable[[], None] | None:
    """One step of a run of this spec, which is long enough for all rounds; None where nothing is trained."""
    rows = len(load(spec)[2].splits["train"].ids)
    needed = int((rounds + WARM_UP) / (1 - BEGIN)) + 2
    steps = max(total_steps(spec.train, rows), needed)
    trainer = trainer_of([replace(spec, train=replace(spec.train, steps=steps, epochs=None))], load)
    if not trainer.attached.trained:
        return None
    trainer.progress.step = int(BEGIN * steps)
    return partial(advance, trainer, 1)


def without_slow_rounds(times: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """Times by contender, one per round, with each round as slow as the median round.

    How slow a round was is its median over the contenders; a single one is left as it is.
    """
    if len(times) < 2:
        return dict(times)
    table = np.array(list(times.values()))
    pace = np.median(table, axis=0)
    return dict(zip(times, table * (np.median(pace) / pace), strict=True))
