"""The texts to answer: a text per line, or a column of a table; "-" is the standard input."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.data import Turn
from experiments.errors import UserError, did_you_mean

FORMATS = ("txt", "csv", "jsonl")
_ENDINGS = {
    ".txt": "txt",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
}


@dataclass(frozen=True)
class Asked:
    """One text, or one conversation, and where it stood."""

    row: int  # of the file, from 1; a table's header is not counted
    text: str | tuple[Turn, ...]

    @property
    def shown(self) -> str:
        """The text, or the last turn."""
        return self.text if isinstance(self.text, str) else self.text[-1][1]


def read_input(
    path: str, *, kind: str, form: str | None = None, column: str | None = None, options: Mapping[str, Any]
) -> tuple[list[Asked], int]:
    """What to answer, and how many rows were passed over because they are empty.

    Args:
        path: A file, or "-".
        kind: "classification" or "causal"; the latter also takes chats in a field `messages`.
        form: One of FORMATS; None: by the file's ending, lines of text where that says nothing.
        column: The column of the texts; None: as `options` say, else the usual names of such columns.
        options: The dataset's options in training.
    """
    with _file(path, form) as (file, chosen):
        if chosen == "txt":
            if column:
                raise UserError(
                    f"--text {column} names a column, but {path} is read as lines of text. "
                    "Leave --text out, or say that it is a table: --input-format csv or jsonl"
                )
            cells: list[Any] = _lines(file)
        else:
            from experiments.data import _tables

            table = _tables.read_csv([file]) if chosen == "csv" else _tables.read_json([file])
            cells = _cells(table, kind, column, options)
    asked = [
        Asked(n, _turns(cell, n) if not isinstance(cell, str) else cell) for n, cell in enumerate(cells, 1)
    ]
    kept = [one for one in asked if one.shown.strip()]
    if not kept:
        raise UserError(f"{path} holds no text. Give a text per line, or a table with a row per text")
    return kept, len(asked) - len(kept)


@contextlib.contextmanager
def _file(path: str, form: str | None) -> Iterator[tuple[Path, str]]:
    """The file to read and its format; what comes from the standard input is kept in one meanwhile."""
    if path != "-":
        file = Path(path).expanduser()
        if file.is_dir():
            raise UserError(f"{path} is a folder. Give a file of texts, or - to type")
        if not file.is_file():
            near = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
            raise UserError(
                f"there is no file {path}.{did_you_mean(file.name, near)} Give a file, or - to type"
            )
        yield file, form or _ENDINGS.get(file.suffix.lower(), "txt")
        return
    with tempfile.TemporaryDirectory(prefix="ablora-") as folder:
        file = Path(folder) / f"stdin.{form or 'txt'}"
        file.write_bytes(sys.stdin.buffer.read())
        yield file, form or "txt"


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8 text: {error.reason} at byte {error.start}. Convert it"
        ) from error


def _cells(
    table: Mapping[str, list[Any]], kind: str, column: str | None, options: Mapping[str, Any]
) -> list[Any]:
    """The column of the texts; chats where there are some."""
    from experiments.data._columns import USUAL

    role = "prompt" if kind == "causal" else "text"
    if column is None and kind == "causal" and "messages" in table and not options.get("prompt"):
        return table["messages"]
    wanted = [column] if column else [options.get(role), *USUAL[role]]
    found = next((name for name in wanted if name in table), next(iter(table)) if len(table) == 1 else None)
    if found is None or (column and column not in table):
        raise UserError(
            f"there is no column {column or f'named like a {role}'}. There are: {', '.join(table)}."
            f"{did_you_mean(column or role, table)} Say which holds the texts: --text <column>"
        )
    return table[found]


def _turns(cell: Any, number: int) -> tuple[Turn, ...]:
    """A chat without its last answer, which is the one to be written."""
    turns = cell if isinstance(cell, list) else []
    if not turns or not all(isinstance(t, dict) and isinstance(t.get("content"), str) for t in turns):
        raise UserError(f"row {number}: expected a text, or a list of messages, found {str(cell)[:60]!r}")
    if turns[-1].get("role") == "assistant":
        turns = turns[:-1]
    if not turns:
        raise UserError(f"row {number}: there is nothing to answer before the assistant's message")
    return tuple((str(turn.get("role")), turn["content"]) for turn in turns)
