"""What training left, opened again: finished runs and adapters of PEFT, checked, and put back on their base.

    source = open_source(Path("runs/demo/dora-r8-..."))      # or the folder of an adapter
    base = load_base(source)                                 # loaded once for all that stand on it
    attached = put_back(base, [source, another])             # variants.Attached, in evaluation mode

Nothing here imports torch before a base is loaded.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.artifacts._base import Base, dense_base, load_base, put_back
from experiments.artifacts._open import is_beside_runs, open_adapter, open_run
from experiments.artifacts._source import Source, check_one_base, named_base
from experiments.errors import UserError

__all__ = [
    "Base",
    "Source",
    "check_labels",
    "check_one_base",
    "dense_base",
    "load_base",
    "named_base",
    "open_adapter",
    "open_run",
    "open_source",
    "open_sources",
    "put_back",
    "source_arguments",
]


def source_arguments(parser: argparse.ArgumentParser) -> None:
    """What commands on runs and adapters take: --model and --labels, as `open_source` has them."""
    parser.add_argument(
        "--model",
        help="the base, as a file of conf/model, a folder or a hub name: of a run the same at another place, "
        "which is checked; of an adapter any (default: as the run or adapter says)",
    )
    parser.add_argument(
        "--labels", default=(), type=lambda text: tuple(text.split(",")) if text else (),
        help="for an adapter: names of its classes in order, by commas",
    )  # fmt: skip


def open_source(path: Path, *, model: str | None = None, labels: tuple[str, ...] = ()) -> Source:
    """A finished run, or an adapter of PEFT, by its folder; UserError where it is neither, or damaged.

    Args:
        path: The folder.
        model: The base, as a file of conf/model, a folder or a name of the hub: for an adapter any, for a run
            the same at another place. None: as the adapter or the run says.
        labels: For an adapter only: the names of its classes, by class number.
    """
    if _is_adapter(path):
        return open_adapter(path, model=model, labels=labels)
    return open_run(path, model=model)


def open_sources(
    paths: Sequence[Path], *, model: str | None = None, labels: tuple[str, ...] = ()
) -> tuple[list[Source], list[Path]]:
    """Several, as `open_source` opens each, and what was passed over.

    That is what a shell's pattern like runs/demo/* catches beside the runs, such as the report.
    """
    beside = [path for path in paths if not _is_adapter(path) and is_beside_runs(path)]
    wanted = [path for path in paths if path not in beside] or list(paths)
    check_labels(wanted, labels)
    opened = [open_source(path, model=model, labels=labels) for path in wanted]
    return opened, [path for path in beside if path not in wanted]


def check_labels(paths: Sequence[Path], labels: tuple[str, ...]) -> None:
    """Refuse names of classes where there is no adapter."""
    if labels and not any(map(_is_adapter, paths)):
        raise UserError(
            f"--labels {','.join(labels)} is for an adapter of PEFT, but {paths[0]} is a run, which "
            "says that itself. Leave --labels out"
        )


def _is_adapter(path: Path) -> bool:
    return (path / "adapter_config.json").is_file()
