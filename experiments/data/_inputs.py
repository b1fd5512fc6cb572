"""Texts and prompts without answers, for predictions: read by what reads the rows of training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.data._classification import texts as texts_of
from experiments.data._conversations import open_ended
from experiments.data._reading import ROLES, Table, form_of
from experiments.data._reading import lines as lines_in
from experiments.data._reading import read as read_table
from experiments.data._tasks import Conversation

__all__ = ["Inputs", "form_of", "read_inputs"]


@dataclass(frozen=True)
class Inputs:
    """Texts or prompts without their answers, one per row of a file."""

    texts: tuple[str | Conversation, ...]  # "" or () in rows that have none
    others: dict[str, list[Any]]  # the columns that the texts were not made of
    notes: tuple[str, ...]


def read_inputs(
    file: Path, options: Mapping[str, Any], *, kind: str, form: str | None = None, column: str | None = None
) -> Inputs:
    """A file of texts or prompts, read as training reads its rows.

    Args:
        file: Lines of text, or a table.
        options: The dataset's. Columns that are named there and not in the file are guessed anew.
        kind: "classification" or "causal".
        form: "lines", "table" or "objects"; None: by the file's ending, lines where that says nothing.
        column: The column of the texts, whatever the options say.
    """
    role = "text" if kind == "classification" else "prompt"
    options = {**options, role: column} if column else options
    form = form or form_of(file)
    if form == "lines":
        lines, notes = lines_in(file, options)
        table = Table({role: lines}, notes=tuple(notes))
    else:
        table = read_table([file], options, form=form)
    known = {name: value for name, value in options.items() if name not in ROLES}
    for name in ROLES:
        columns = [given] if isinstance(given := options.get(name), str) else given or ()
        if all(one in table.columns for one in columns) or given == column:
            known[name] = given
    make = texts_of if kind == "classification" else open_ended
    texts, used = make(table, known, key="--text ")
    others = {name: cells for name, cells in table.columns.items() if name not in used}
    return Inputs(tuple(texts), others, table.notes)
