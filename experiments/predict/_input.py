"""The texts to answer: a text per line, or a column of a table; "-" is the standard input."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments import data
from experiments.data import Turn
from experiments.errors import UserError, did_you_mean

FORMATS = {"txt": "lines", "csv": "table", "jsonl": "objects"}  # as --input-format, and as data reads them


@dataclass(frozen=True)
class Asked:
    """One text, or one conversation, and where it stood."""

    row: int  # of the file, from 1; a table's header is not counted
    text: str | tuple[Turn, ...]
    others: Mapping[str, Any] = field(default_factory=dict)  # the other cells of its row

    @property
    def shown(self) -> str:
        """The text, or the last turn."""
        return self.text if isinstance(self.text, str) else self.text[-1][1]


def read_input(
    path: str, *, kind: str, form: str | None = None, column: str | None = None, options: Mapping[str, Any]
) -> tuple[list[Asked], int, tuple[str, ...]]:
    """What to answer, how many rows were passed over because they are empty, and notes.

    Args:
        path: A file, or "-".
        kind: "classification" or "causal"; the latter also takes chats in a field `messages`.
        form: One of FORMATS; None: by the file's ending, lines of text where that says nothing.
        column: The column of the texts; None: as `options` say, else the usual names of such columns.
        options: The dataset's options in training.
    """
    with _file(path, form) as (file, chosen):
        if column and chosen == "lines":
            raise UserError(
                f"--text {column} names a column, but {path} is read as lines of text. "
                "Leave --text out, or say that it is a table: --input-format csv or jsonl"
            )
        inputs = data.read_inputs(file, options, kind=kind, form=chosen, column=column)
    asked = [
        Asked(number, text, {name: cells[number - 1] for name, cells in inputs.others.items()})
        for number, text in enumerate(inputs.texts, 1)
        if text
    ]
    if not asked:
        raise UserError(f"{path} holds no text. Give a text per line, or a table with a row per text")
    return asked, len(inputs.texts) - len(asked), inputs.notes


@contextlib.contextmanager
def _file(path: str, form: str | None) -> Iterator[tuple[Path, str]]:
    """The file to read and its form; what comes from the standard input is kept in one meanwhile."""
    if path != "-":
        file = Path(path).expanduser()
        if file.is_dir():
            raise UserError(f"{path} is a folder. Give a file of texts, or - to type")
        if not file.is_file():
            near = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
            raise UserError(
                f"there is no file {path}.{did_you_mean(file.name, near)} Give a file, or - to type"
            )
        yield file, FORMATS[form] if form else data.form_of(file)
        return
    with tempfile.TemporaryDirectory(prefix="ablora-") as folder:
        file = Path(folder) / f"stdin.{form or 'txt'}"
        file.write_bytes(sys.stdin.buffer.read())
        yield file, FORMATS[form or "txt"]
