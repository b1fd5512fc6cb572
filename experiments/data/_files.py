"""From dataset.path to files per split.

A path is a file, a folder, a glob or a list of files, whose names tell the splits apart, or files by split:
dataset.path={train: a.csv, test: b.csv}. Files that hold a text a line stand for classes where they end in
.pos and .neg, or where they are given by class: dataset.path={objective: a.txt, subjective: b.txt}.
"""

import glob
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.data._reading import PACKED
from experiments.data._tasks import canonical
from experiments.errors import UserError, did_you_mean, nearest
from experiments.files import sha256

_NAMES = {
    "train": {"train", "training", "trainset"},
    "validation": {"validation", "valid", "val", "dev", "validset", "valset", "devset"},
    "test": {"test", "testing", "testset", "eval"},
}
_CLASSES = (".pos", ".neg")  # endings that name the class of every line
_TEXTS = (".txt", ".label", ".data")  # searched for in a folder without any usual ending


@dataclass(frozen=True)
class Located:
    """Which files are read, as what."""

    splits: Mapping[str, Sequence[Path]]
    classes: Mapping[Path, str] = field(default_factory=dict)  # of all lines of a file
    passed_over: Sequence[str] = ()  # names of other files in the folder that was given


def locate(options: Mapping[str, Any], *, dataset: str, endings: Sequence[str]) -> Located:
    """The files of each split; a single file, or files whose names tell no split, are all "train".

    Args:
        options: The dataset's options; `path` is read.
        dataset: Its name, for the errors.
        endings: File name endings that a folder is searched for, e.g. (".csv", ".tsv").
    """
    given = options.get("path")
    if not given:
        raise UserError(
            f"dataset={dataset} needs the place of your data. Give dataset.path=<file>, a folder that holds "
            f"train, validation and test files ({' or '.join(endings)}), or a glob or a list of files"
        )
    if isinstance(given, Mapping):
        if dataset == "csv" and len(given) > 1 and not any(nearest(name, _all_names()) for name in given):
            classes = {
                file: name for name, part in given.items() for file in _expand_all(part, dataset, endings)
            }
            return Located({"train": list(classes)}, classes)
        splits = {_split_named(name): _expand_all(part, dataset, endings) for name, part in given.items()}
        return Located(_with_train(splits))
    files = _expand_all(given, dataset, endings)
    if dataset == "csv" and len(files) > 1 and all(file.suffix in _CLASSES for file in files):
        splits, classes = {"train": files}, {file: file.suffix[1:] for file in files}
    else:
        splits, classes = _by_name(files, optional=isinstance(given, str) and _is_folder(given)), {}
    known = {file for group in splits.values() for file in group}
    others = Path(given).expanduser().iterdir() if isinstance(given, str) and _is_folder(given) else ()
    passed_over = sorted(file.name for file in others if file.is_file() and file not in known)
    return Located(splits, classes, [name for name in passed_over if not name.startswith(".")])


def _is_folder(path: str) -> bool:
    return Path(path).expanduser().is_dir()


def _all_names() -> set[str]:
    return {name for names in _NAMES.values() for name in names}


def content(located: Located, options: Mapping[str, Any]) -> str:
    """A hash of the files' names and bytes, their splits, and the options that say how to read them."""
    reading = sorted((name, value) for name, value in options.items() if name not in ("path", "max_length"))
    key = hashlib.sha256(canonical(reading).encode())
    for split, files in sorted(located.splits.items()):
        digests = sorted(f"{sha256(file)} {file.name} {located.classes.get(file, '')}" for file in files)
        key.update(canonical([split, digests]).encode())
    key.update(canonical(located.passed_over).encode())
    return key.hexdigest()


def used(located: Located) -> list[str]:
    """Which file was read as what, and which was not, for the notes."""
    read = "; ".join(
        f"{', '.join(file.name for file in files)} as {split}" for split, files in located.splits.items()
    )
    classes = ", ".join(f"{file.name} as class {name}" for file, name in located.classes.items())
    notes = [f"read {classes or read}"]
    if located.passed_over:
        shown = ", ".join(located.passed_over[:6])
        more = f" and {len(located.passed_over) - 6} more" if len(located.passed_over) > 6 else ""
        notes.append(f"ignored in the folder: {shown}{more}")
    return notes


def _split_named(name: str) -> str:
    for split, names in _NAMES.items():
        if name.lower() in names:
            return split
    hint = did_you_mean(name, _NAMES)
    raise UserError(f"dataset.path names a split {name!r}.{hint} Known: {', '.join(_NAMES)}")


def _expand_all(given: str | Sequence[str], dataset: str, endings: Sequence[str]) -> list[Path]:
    """The files of a path or of several, none of them empty."""
    parts = [given] if isinstance(given, str) else given
    files = [file for part in parts for file in _expand(part, dataset, endings)]
    for file in files:
        with open(file, "rb") as stream:
            blank = not stream.read(65536).strip()
        if blank:
            raise UserError(
                f"dataset.path: {file} is empty. Give a file with a row per example, or leave it out"
            )
    return files


def _expand(part: str, dataset: str, endings: Sequence[str]) -> list[Path]:
    path = Path(part).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        usual = _ending_in(path, (*endings, *(e + packed for e in endings for packed in PACKED)))
        classes = _ending_in(path, _CLASSES) if dataset == "csv" else []
        named = [file for file in _ending_in(path, _TEXTS) if _splits_of(file)]
        found = usual or (classes if len(classes) > 1 else named if dataset != "jsonl" else [])
        if not found:
            raise UserError(
                f"dataset={dataset} found no {' or '.join(endings)} file in the folder {path}. It holds: "
                f"{_listing(path)}. Give the right folder, or dataset=jsonl for JSON lines and dataset=csv "
                "for tables"
            )
        return found
    if glob.has_magic(part):
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        if found:
            return found
    parent = next(folder for folder in path.absolute().parents if folder.is_dir())
    names = [file.name for file in parent.iterdir()]
    raise UserError(
        f"dataset.path={part}: there is no such file or folder (looked for {path.absolute()}). "
        f"{parent} holds: {_listing(parent)}.{did_you_mean(path.name, names)}"
    )


def _ending_in(folder: Path, endings: Sequence[str]) -> list[Path]:
    return sorted(file for ending in endings for file in folder.glob(f"*{ending}"))


def _splits_of(file: Path) -> list[str]:
    """The splits that the words of a file's name tell."""
    stem = Path(file.stem).stem if file.suffix in PACKED else file.stem
    words = set(re.split(r"[^a-z]+", stem.lower()))
    return [split for split, names in _NAMES.items() if words & names]


def _listing(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
    shown = ", ".join(names[:8]) or "nothing"
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _by_name(files: Sequence[Path], *, optional: bool) -> dict[str, list[Path]]:
    """Sort files into splits by the words of their names; a single file is all "train".

    Args:
        files: At least one file.
        optional: Whether files of no split may stand by (in a folder) or are a mistake (in a list).
    """
    splits: dict[str, list[Path]] = {}
    other = []
    if len(files) == 1:
        return {"train": list(files)}
    for file in files:
        found = _splits_of(file)
        if len(found) == 1:
            splits.setdefault(found[0], []).append(file)
        else:
            other.append(file)
    if not splits:
        return {"train": list(files)}
    if other and not optional:
        raise UserError(
            f"dataset.path: {', '.join(file.name for file in other)} belongs to no split, while the names of "
            "the other files tell theirs. Name each file after its split (train, validation or dev, test), "
            "or give one file to be split by hash"
        )
    return _with_train(splits)


def _with_train(splits: dict[str, list[Path]]) -> dict[str, list[Path]]:
    if "train" not in splits:
        raise UserError(
            f"dataset.path gives {' and '.join(splits)} but no training data. Add a file with 'train' in its "
            f"name to {', '.join(file.name for files in splits.values() for file in files)}"
        )
    return splits
