"""What training left, opened again: finished runs and adapters of PEFT, checked, and put back on their base.

    source = open_source(Path("runs/demo/dora-r8-..."))      # or the folder of an adapter
    base = load_base(source)                                 # loaded once for all that stand on it
    attached = put_back(base, [source, another])             # variants.Attached, in evaluation mode

Nothing here imports torch before a base is loaded.
"""

from pathlib import Path

from experiments.opened._adapter import open_adapter
from experiments.opened._base import Base, dense_base, load_base, put_back
from experiments.opened._run import open_run
from experiments.opened._source import Source, check_one_base

__all__ = [
    "Base",
    "Source",
    "check_one_base",
    "dense_base",
    "load_base",
    "open_adapter",
    "open_run",
    "open_source",
    "put_back",
]


def open_source(path: Path, *, model: str | None = None, labels: tuple[str, ...] = ()) -> Source:
    """A finished run, or an adapter of PEFT, by its folder; UserError where it is neither, or damaged.

    Args:
        path: The folder.
        model: For an adapter only: its base, as a file of conf/model, a folder or a name of the hub. None: as
            the adapter says.
        labels: For an adapter only: the names of its classes, by class number.
    """
    if (path / "adapter_config.json").is_file():
        return open_adapter(path, model=model, labels=labels)
    return open_run(path)
