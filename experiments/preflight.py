"""The last check before a sweep starts, with the model at hand.

Does every cell fit it, and what do its targets mean?
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from experiments import checkpoint, models
from experiments.errors import UserError
from experiments.execute import prepare
from experiments.spec import RunSpec
from experiments.sweep.plan import kinds
from experiments.train import run_config, total_steps
from variants import Attached, attach

_PREDICTION, _ROW, _REST = 120, 150, 40_000  # bytes: a test example, a step of the history, the other files


def check_cells(specs: Sequence[RunSpec]) -> tuple[list[str], list[str]]:
    """Try every distinct way of attaching on the real model.

    Returns:
        What is wrong, one text per problem; and what the targets of each kind of cell matched.
    """
    problems: list[str] = []
    notes: list[str] = []
    for spec in _grouped(specs):
        try:
            model, info, task = prepare(spec)
            steps = total_steps(spec.train, task.rows["train"])
            attached = attach(models.clone(model), [run_config(spec, steps=steps)])
        except (UserError, ValueError, TypeError, ImportError) as error:
            problems.append(f"{spec.cell()}: {error}")
        else:
            notes += _coverage(attached)
            notes += [*info.notes, *task.notes]
    return list(dict.fromkeys(problems)), list(dict.fromkeys(notes))


def check_room(cells: Mapping[RunSpec, int], folder: Path, *, workers: int) -> list[str]:
    """Whether the disk has room for what the runs will leave there: a sentence if it has not.

    Args:
        cells: Specs, each with the number of runs like it.
        folder: Where the runs will be.
        workers: How many are unfinished at a time, each with its checkpoints.
    """
    results, states = 0, 0
    for spec in _grouped(cells):
        model, _, task = prepare(spec)
        steps = total_steps(spec.train, task.rows["train"])
        trained = attach(models.clone(model), [run_config(spec, steps=steps)]).count(0)
        results += cells[spec] * (4 * trained + _PREDICTION * task.rows["test"] + _ROW * steps + _REST)
        states = max(states, 12 * trained * (checkpoint.KEEP + 1))  # a parameter and AdamW's two moments
    needed, free = results + workers * states, shutil.disk_usage(folder).free
    if needed <= free:
        return []
    return [
        f"the runs need {needed / 1e9:.1f} GB in {folder} ({workers * states / 1e9:.1f} GB of it for states "
        f"while they run), and the disk has {free / 1e9:.1f} GB left. Free some space, or ask for fewer runs"
    ]


def _grouped(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """A spec of each kind, those of one base and dataset together."""
    return sorted(
        kinds(specs),
        key=lambda s: str(
            (
                s.model,
                s.model_options,
                s.dataset,
                s.dataset_options,
                s.train.base_dropout,
                s.axes.get("storage"),
            )
        ),
    )


def _coverage(attached: Attached) -> list[str]:
    """One line per pattern: how many modules it matched, and their names with the layer numbers folded."""
    lines = []
    for pattern, names in attached.coverage.items():
        kinds = dict.fromkeys(
            ".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names
        )
        lines.append(f"targets {pattern}: {len(names)} modules ({', '.join(kinds)})")
    return lines
