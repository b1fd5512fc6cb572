"""Reading tables of text: from files of any usual form to columns, and notes on what was found out.

    table = read(files, options)         # CSV, TSV, JSON lines, Parquet; compressed or not
    table.columns["text"]                # the cells, as they are written

Cells of text formats stay as they are written: a label 1 stays "1", a text "NA" a text, a date a date.
Nothing is guessed to be a number or missing. Training and `experiments.predict` both read through here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.data._columns import USUAL
from experiments.data._reading import _delimited, _lines, _objects
from experiments.data._reading._bytes import PACKED, PARQUET, ending_of, lines_of, text_of, unpacked
from experiments.errors import UserError

__all__ = ["OBJECTS", "PACKED", "ROLES", "TABLES", "Table", "form_of", "lines", "read"]

OBJECTS = (".jsonl", ".json", ".ndjson")
TABLES = (".csv", ".tsv", ".parquet")
ROLES = tuple(USUAL)
_USUAL = frozenset(name for names in USUAL.values() for name in names)


@dataclass(frozen=True)
class Table:
    """The columns of one or several files."""

    columns: Mapping[str, list[Any]]  # by name, all of one length
    named: bool = True  # False: columns have no names of their own, but the numbers 0, 1, 2, ...
    notes: tuple[str, ...] = field(default_factory=tuple)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))


def read(
    files: Sequence[Path],
    options: Mapping[str, Any],
    *,
    form: str | None = None,
    classes: Mapping[Path, str] | None = None,
) -> Table:
    """The table in several files of one split.

    Args:
        files: At least one.
        options: The dataset's; `separator`, `quoting`, `header` and `encoding` are read.
        form: "table" or "objects"; None: by each file's ending, a table where that says nothing.
        classes: The class of every line of a file, where files stand for classes.

    Raises:
        UserError: a file cannot be read; the sentence names the line and the remedy.
    """
    tables = [_read(file, options, form, (classes or {}).get(file)) for file in files]
    for table, file in zip(tables, files, strict=True):
        if set(table.columns) != set(tables[0].columns):
            raise UserError(
                f"{file.name} has the columns {', '.join(table.columns)}, but {files[0].name} has "
                f"{', '.join(tables[0].columns)}. Files of one split need the same columns: leave one "
                "out, as in dataset.path={train: a.csv, test: b.csv}"
            )
    return Table(
        {name: [cell for table in tables for cell in table.columns[name]] for name in tables[0].columns},
        tables[0].named,
        tuple(note for table in tables for note in table.notes),
    )


def form_of(file: Path) -> str:
    """What a file's ending says of its form: "table", "objects", else "lines"."""
    ending = ending_of(file)
    return "table" if ending in TABLES else "objects" if ending in OBJECTS else "lines"


def lines(file: Path, options: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The lines of a text, and notes; `encoding` of the options is read."""
    text, notes = text_of(file, options.get("encoding"))
    return lines_of(text), notes


def _read(file: Path, options: Mapping[str, Any], form: str | None, label: str | None) -> Table:
    if form != "objects" and (ending_of(file) == ".parquet" or unpacked(file).startswith(PARQUET)):
        return _parquet(file)
    text, notes = text_of(file, options.get("encoding"))
    if (form or form_of(file)) == "objects":
        return Table(_objects.read(text, file), notes=tuple(notes))
    if label is not None:
        return Table(_lines.of_class(text, label), notes=tuple(notes))
    free = options.get("separator") is None and options.get("header") is None
    if free and (found := _lines.labelled(text)):
        return Table(found[0], notes=(*notes, f"{file.name}: {found[1]}"))
    columns, named, remarks = _delimited.read(text, file, options, _names(options))
    return Table(columns, named, (*notes, *remarks))


def _names(options: Mapping[str, Any]) -> set[str]:
    """What shows a line to be a header: the usual names of columns, and those that were asked for."""
    asked = (options[role] for role in ROLES if options.get(role))
    words = (name for names in asked for name in ([names] if isinstance(names, str) else names))
    return {*_USUAL, *(word.strip().lower() for word in words if not word.isdigit())}


def _parquet(file: Path) -> Table:
    """Class numbers with names, as the hub's tables have them, become these names."""
    import datasets
    import pyarrow
    from pyarrow import parquet

    try:
        data = parquet.read_table(pyarrow.BufferReader(unpacked(file)))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{file} cannot be read as Parquet: {' '.join(str(error).split())[:200]}. Save it again"
        ) from error
    features = datasets.Features.from_arrow_schema(data.schema)
    columns = data.to_pydict()
    for name, feature in features.items():
        if isinstance(feature, datasets.ClassLabel):
            columns[name] = [
                feature.int2str(cell) if cell is not None and cell >= 0 else None for cell in columns[name]
            ]
    return Table(columns)
