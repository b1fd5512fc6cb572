"""The Parquet files of a table of the hub: from the hub's cache, else downloaded. No program is run."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments import hub
from experiments.errors import UserError

PARQUET = "refs/convert/parquet"  # the branch that the hub itself fills, for every table


def commit(options: Mapping[str, Any]) -> str:
    """The table's name, part and commit."""
    folder = _snapshot(*_place(options))
    return f"{_name(options)}/{_subset(options)}@{folder.name}"


def files(options: Mapping[str, Any]) -> tuple[dict[str, list[Path]], list[str]]:
    """The files of each split, and a note on where they are from."""
    folder = _snapshot(*_place(options))
    wanted = options.get("splits") or {"train": "train", "validation": "validation", "test": "test"}
    found = {
        split: sorted(
            file for name in _names(names) for file in (folder / _subset(options) / name).glob("*.parquet")
        )
        for split, names in wanted.items()
    }
    found = {split: group for split, group in found.items() if group}
    if "train" not in found:
        there = sorted(path.name for path in (folder / _subset(options)).glob("*"))
        raise UserError(
            f"{_name(options)} has no split {wanted.get('train')!r} in its part {_subset(options)!r}. Its "
            f"splits: {', '.join(there) or 'none'}. "
            "Set dataset.splits={train: ..., test: ...} or dataset.subset"
        )
    pinned = "" if options.get("revision") else " (unpinned: the newest when it was first read here)"
    return found, [f"read hub {_name(options)}, {_subset(options)}, commit {folder.name}{pinned}"]


def _names(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _name(options: Mapping[str, Any]) -> str:
    return str(options.get("hub") or options["name"])


def _subset(options: Mapping[str, Any]) -> str:
    return str(options.get("subset") or "default")


def _place(options: Mapping[str, Any]) -> tuple[str, str, str | None]:
    return _name(options), _subset(options), options.get("revision")


@lru_cache(maxsize=16)
def _snapshot(name: str, subset: str, revision: str | None) -> Path:
    """The folder of the table's commit; without a network the newest that is here."""
    from huggingface_hub import snapshot_download, utils

    wanted: dict[str, Any] = {
        "repo_type": "dataset",
        "revision": revision or PARQUET,
        "allow_patterns": [f"{subset}/*/*.parquet"],
    }
    try:
        folder = Path(snapshot_download(name, local_files_only=True, **wanted))
        if any(folder.glob(f"{subset}/*/*.parquet")):
            return folder
    except (OSError, ValueError):
        pass  # not here yet; what is wrong with the name itself is said below
    utils.enable_progress_bars()
    try:
        folder = Path(snapshot_download(name, **wanted))
    except hub.errors() as error:
        raise UserError(
            f"{name} is not in the hub's cache on this machine and cannot be read from the hub: "
            f"{hub.reason(error)}. Check the name and the network, or give the same content as local files: "
            "dataset.path=<folder or file>, or a folder or file of the dataset's name in $ABLORA_DATA"
        ) from error
    if not any(folder.glob(f"{subset}/*/*.parquet")):
        raise UserError(f"{name} has no part {subset!r} as Parquet at the hub. Set dataset.subset=<part>")
    return folder
