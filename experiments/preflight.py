"""The last check before a sweep starts, with the model at hand.

Does every cell fit it, and what do its targets mean?
"""

from collections.abc import Iterable, Sequence

from experiments import models
from experiments.errors import UserError
from experiments.execute import prepare
from experiments.spec import RunSpec
from experiments.train import run_config, total_steps
from variants import Attached, attach


def check_cells(specs: Sequence[RunSpec]) -> tuple[list[str], list[str]]:
    """Try every distinct way of attaching on the real model.

    Returns:
        What is wrong, one text per problem; and what the targets of each kind of cell matched.
    """
    problems: list[str] = []
    notes: list[str] = []
    for spec in _distinct(specs):
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


def _distinct(specs: Sequence[RunSpec]) -> Iterable[RunSpec]:
    """One spec for each combination that could be refused, those of one base and dataset together."""
    chosen = {
        (
            s.model, str(s.model_options), s.dataset, str(s.dataset_options), s.train.base_dropout,
            s.axes.get("storage", ""),
            s.method, str(s.axes), s.r, str(s.targets), str(s.options),
        ): s
        for s in specs
    }  # fmt: skip
    return [chosen[key] for key in sorted(chosen, key=str)]


def _coverage(attached: Attached) -> list[str]:
    """One line per pattern: how many modules it matched, and their names with the layer numbers folded."""
    lines = []
    for pattern, names in attached.coverage.items():
        kinds = dict.fromkeys(
            ".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names
        )
        lines.append(f"targets {pattern}: {len(names)} modules ({', '.join(kinds)})")
    return lines
