"""The last check before a sweep starts, with the model at hand.

Does every run fit it, and what do its targets mean?
"""

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments import models
from experiments.errors import UserError
from experiments.models.trial import check_model
from experiments.spec import RunSpec
from experiments.training import checkpoint
from experiments.training.loader import Loader
from experiments.training.loop import run_config, total_steps
from variants import Attached, attach

_PREDICTION, _ROW, _REST = 120, 150, 40_000  # bytes: a test example, a step of the history, the other files


@dataclass
class Checked:
    """What trying the runs on the model showed."""

    problems: list[str]  # one text each
    notes: list[str]  # what the targets of each kind of run matched, and the like
    results: int = 0  # bytes that all runs leave behind
    # bytes of each run's checkpoints while it is under way, of those that pack and of those that do not
    packed: list[int] = field(default_factory=list)
    alone: list[int] = field(default_factory=list)


def check_runs(kinds: Mapping[RunSpec, int], load: Loader) -> Checked:
    """Try each kind of run on the real model, once.

    Args:
        kinds: Specs, each with the number of runs like it.
        load: Where bases and data come from.
    """
    found = Checked([], [])
    tried: Any = None
    for spec in _grouped(kinds):
        try:
            model, info, task = load(spec)
            if model is not tried:
                tried, (problems, notes) = model, check_model(model, task)
            if problems:
                found.problems += [f"model={spec.model}: {problem}" for problem in problems]
                continue
            steps = total_steps(spec.train, task.rows["train"])
            attached = attach(models.clone(model), [run_config(spec, steps=steps)])
        except (UserError, ValueError, TypeError, ImportError) as error:
            found.problems.append(f"{spec.cell()}: {error}")
            continue
        taken, limit = attached.inserted.positions if attached.inserted else 0, info.max_length
        if taken and limit is not None and task.max_length + taken > limit:
            found.problems.append(
                f"{spec.cell()}: texts of {task.max_length} tokens and the {taken} of variant.length do not "
                f"fit into the {limit} positions of this model. Take a smaller variant.length, or "
                f"dataset.max_length={max(limit - taken, 1)}"
            )
            continue
        found.notes += [*_coverage(attached), *attached.notes(0), *notes, *info.notes, *task.notes]
        trained = attached.count(0)
        found.results += kinds[spec] * (4 * trained + _PREDICTION * task.rows["test"] + _ROW * steps + _REST)
        # a parameter and AdamW's two moments
        states = found.alone if spec.pack_key() is None else found.packed
        states += [12 * trained * (checkpoint.KEEP + 1)] * kinds[spec]
    found.problems = list(dict.fromkeys(found.problems))
    found.notes = list(dict.fromkeys(found.notes))
    return found


def check_room(checked: Checked, folder: Path, workers: int, together: int = 1) -> list[str]:
    """Whether the disk has room for what the runs will leave there: a sentence if it has not.

    Args:
        checked: What is known of the runs.
        folder: Where they will be.
        workers: How many packs, or runs that train alone, are unfinished at a time, with their checkpoints.
        together: The most runs of a pack.
    """
    largest = sorted(checked.packed, reverse=True)
    packs = [sum(largest[i : i + together]) for i in range(0, len(largest), together)]
    states = sum(sorted([*packs, *checked.alone], reverse=True)[:workers])
    needed, free = checked.results + states, shutil.disk_usage(folder).free
    if needed <= free:
        return []
    return [
        f"the runs need {needed / 1e9:.1f} GB in {folder} ({states / 1e9:.1f} GB of it for states "
        f"while they run), and the disk has {free / 1e9:.1f} GB left. Free some space, or ask for fewer runs"
    ]


def _grouped(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """A spec of each kind, those of one base and dataset together."""
    return sorted(specs, key=lambda spec: str((spec.base_key(), spec.data_key())))


def _coverage(attached: Attached) -> list[str]:
    """One line per pattern: how many modules it matched, and their names with numbers folded."""
    lines = []
    for pattern, names in attached.coverage.items():
        kinds = dict.fromkeys(re.sub(r"(?<=[.[])\d+(?=[].]|$)", "*", name) for name in names)
        lines.append(f"targets {pattern}: {len(names)} modules ({', '.join(kinds)})")
    return lines
