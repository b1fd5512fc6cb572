"""Where a run is shown beside its own files, which come first and are the truth.

A tracker is a module of this folder with a function `make(options, notify) -> Tracker`; it is found by its
name. One that needs a package beyond ablora's own names it as PACKAGE, and there is an extra of the tracker's
name. No tracker can fail a run: `make` here wraps each in BestEffort. Clients are imported when runs begin.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from experiments.errors import UserError, did_you_mean
from experiments.tracking._base import BestEffort, Labels, Notify, Tracker, labels_of

__all__ = ["Labels", "Tracker", "check_installed", "labels_of", "make", "names"]


def names() -> list[str]:
    """The trackers there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def check_installed(name: str) -> None:
    """Before runs start: UserError if the tracker's package is not here; a run itself would go on without."""
    package = getattr(_module(name), "PACKAGE", None)
    if package and importlib.util.find_spec(package) is None:
        raise UserError(
            f"tracker={name} needs the package {package}, which is not installed: pip install "
            f"'ablora[{name}]', or leave the tracker out. The run folders hold all that it would show."
        )


def make(options: Mapping[str, Any], *, notify: Notify = print) -> Tracker:
    """The tracker called options["name"], wrapped so that its failures are reported once and end nothing.

    One tracker serves one run. `notify` takes a line for the person watching.
    """
    name = str(options.get("name", "none"))
    rest = {key: value for key, value in options.items() if key != "name"}
    return BestEffort(_module(name).make(rest, notify), name=name, notify=notify)


def _module(name: str) -> ModuleType:
    if name not in names():
        raise UserError(
            f"no tracker named {name!r}.{did_you_mean(name, names())} Known: {', '.join(names())}. "
            f"To add one, write experiments/tracking/{name}.py"
        )
    return importlib.import_module(f"{__name__}.{name}")
