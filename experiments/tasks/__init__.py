"""Kinds of task: one module each, found because its file is here.

A kind says how rows become tensors, which class of model it needs, which loss, and how answers are made and
scored. To add one, write experiments/tasks/<name>.py with a `KIND` that derives from `_base.Kind`. A dataset
names its kind in the `RawTask` that it reads. No torch at import.
"""

import importlib
import pkgutil

from experiments.errors import UserError, did_you_mean
from experiments.tasks._base import Kind as Kind
from experiments.tasks._base import Outputs as Outputs
from experiments.tasks._base import Scores as Scores
from experiments.tasks._base import Tokens as Tokens


def names() -> list[str]:
    """Every kind of task."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def kind_of(name: str) -> Kind:
    """A kind by its name; UserError if there is none of that name."""
    if name not in names():
        raise UserError(
            f"there is no kind of task {name!r}.{did_you_mean(name, names())} Known: {', '.join(names())}"
        )
    return importlib.import_module(f"experiments.tasks.{name}").KIND
