"""hub: a table of the Hugging Face hub, or local files of the same content, as any kind of task.

The yamls that build on this module name a table and say how its rows become examples; another one is

    dataset=hub dataset.name=stanfordnlp/imdb dataset.kind=classification dataset.text=text

From the hub come Parquet files alone, of the branch that the hub makes for every table; no program of a
table's is run. They are kept in the hub's cache, where a command without a network finds them. What was read
is named by its commit in the notes, and a run is known by the rows' own hash. `dataset.path` takes local
files instead: a folder, or any form of file that dataset=csv and jsonl read. So does, without dataset.path,
$ABLORA_DATA/<name> (~/.local/share/ablora): what a sweep over several datasets without a network needs.

    splits       the hub's names of our splits: {train: train, test: validation}; missing ones are taken from
                 train by a hash of the text
    files        the names of the files of each split, in a folder that has others, too
    keys         of one JSON file that holds a list of rows per split: its keys for each of our splits
    columns      the names of the columns where rows are lists, or files have no header
    rename       other names of columns: {sentence: text}
    <role>       a column, or a template such as "{question} {passage}"; which roles there are, says the kind
"""

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments import hub
from experiments.data import _files, _reading
from experiments.data._tasks import RawTask
from experiments.data.hub._rows import build
from experiments.errors import UserError

PARQUET = "refs/convert/parquet"  # the branch that the hub itself fills, for every table
_ENDINGS = (*_reading.TABLES, *_reading.OBJECTS, ".txt")
Columns = dict[str, list[Any]]


def source(options: Mapping[str, Any]) -> str:
    """What identifies the rows: the hash of local files, or the table's commit."""
    options = _placed(options)
    if options.get("path"):
        return _files.content(_local(options), options)
    return _commit(options)


def read(options: Mapping[str, Any]) -> RawTask:
    """Read the table and make the examples."""
    options = _placed(options)
    if options.get("path"):
        splits, note = _columns_of_files(_local(options), options)
    else:
        found, note = _from_hub(options)
        splits = {split: dict(_reading.read(files, {}).columns) for split, files in found.items()}
    for columns in splits.values():
        for old, new in (options.get("rename") or {}).items():
            if old in columns and new not in columns:
                columns[new] = columns.pop(old)
    return build(splits, options, note)


def _placed(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options with the path of a local copy where one lies in the folder of local tables."""
    copies = Path(os.environ.get("ABLORA_DATA") or "~/.local/share/ablora").expanduser()
    found = sorted(p for p in copies.glob(f"{options['name']}*") if p.name.split(".")[0] == options["name"])
    return options if options.get("path") or not found else {**options, "path": str(found[0])}


def _local(options: Mapping[str, Any]) -> Any:
    """The files of each split."""
    given, names = options["path"], options.get("files")
    folder = Path(given).expanduser() if isinstance(given, str) else None
    if names and folder is not None and folder.is_dir():
        parts = {split: folder / name for split, name in names.items() if (folder / name).is_file()}
        if "train" in parts:
            return _files.locate(
                {"path": {s: str(p) for s, p in parts.items()}}, dataset="hub", endings=_ENDINGS
            )
    return _files.locate(options, dataset=str(options["name"]), endings=_ENDINGS)


def _columns_of_files(located: Any, options: Mapping[str, Any]) -> tuple[dict[str, Columns], list[str]]:
    files = [file for group in located.splits.values() for file in group]
    if options.get("keys") and len(files) == 1 and files[0].suffix == ".json":
        return _keyed(files[0], options), [f"read {files[0].name}"]
    notes = list(_files.used(located))
    splits = {}
    for split, group in located.splits.items():
        if options.get("kind") == "language_modeling" and all(file.suffix == ".txt" for file in group):
            splits[split] = _lines(group, options, notes)
            continue
        table = _reading.read(group, options)
        known = {*(options.get("columns") or ()), *(options.get("rename") or ())}
        if (
            options.get("columns")
            and options.get("header") is None
            and table.named
            and not known & {*table.columns}
        ):
            table = _reading.read(
                group, {**options, "header": False}
            )  # a first row that only looks like names
        splits[split] = _named(dict(table.columns), table.named, options.get("columns"))
        notes += [note for note in table.notes if note not in notes]
    return splits, notes


def _lines(files: Sequence[Path], options: Mapping[str, Any], notes: list[str]) -> Columns:
    """Plain text as a column of its lines, each with its end, which `document` joins again."""
    lines: list[str] = []
    for file in files:
        found, remarks = _reading.lines(file, options)
        lines += [f"{line}\n" for line in found]
        notes += remarks
    if not options.get("document"):  # a file is a text
        lines = ["".join(lines)]
    return {str(options.get("text") or "text"): lines}


def _named(columns: Columns, named: bool, names: Sequence[str] | None) -> Columns:
    """Columns without a header get the names that the options have for them."""
    if named or not names:
        return columns
    if len(names) != len(columns):
        raise UserError(
            f"dataset.columns names {len(names)} columns ({', '.join(names)}), the file has {len(columns)}"
        )
    return dict(zip(names, columns.values(), strict=True))


def _keyed(file: Path, options: Mapping[str, Any]) -> dict[str, Columns]:
    """The splits of a JSON object that holds a list of rows under each of several keys."""
    content = json.loads(file.read_text(encoding="utf-8"))
    splits = {}
    for split, keys in options["keys"].items():
        chosen = [keys] if isinstance(keys, str) else keys
        if missing := [key for key in chosen if key not in content]:
            raise UserError(f"{file} has no {missing[0]!r}. It has: {', '.join(content)}. Set dataset.keys")
        rows = [row for key in chosen for row in content[key]]
        splits[split] = dict(zip(options["columns"], map(list, zip(*rows, strict=True)), strict=True))
    return splits


def _commit(options: Mapping[str, Any]) -> str:
    """The table's name, part and commit."""
    folder = _snapshot(*_place(options))
    return f"{_name(options)}/{_subset(options)}@{folder.name}"


def _from_hub(options: Mapping[str, Any]) -> tuple[dict[str, list[Path]], list[str]]:
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
    parts = f"{subset}/*/*.parquet"
    wanted = {"repo_type": "dataset", "revision": revision or PARQUET, "allow_patterns": [parts]}
    try:
        folder = hub.snapshot(name, lambda found: any(found.glob(parts)), **wanted)
    except hub.errors() as error:
        raise UserError(
            f"{name} is not in the hub's cache on this machine and cannot be read from the hub: "
            f"{hub.reason(error)}. Check the name and the network, or give the same content as local files: "
            "dataset.path=<folder or file>, or a folder or file of the dataset's name in $ABLORA_DATA"
        ) from error
    if not any(folder.glob(parts)):
        raise UserError(f"{name} has no part {subset!r} as Parquet at the hub. Set dataset.subset=<part>")
    return folder
