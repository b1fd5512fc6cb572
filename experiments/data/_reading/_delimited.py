"""Tables of separated cells: which sign separates, whether quotes enclose, whether there is a header.

Each of the three is an option of the dataset, found out where it is null, and said where it is not what CSV
has (commas, quotes, a header).

- Separator: the first of tab, comma, semicolon and bar by which all rows are as wide as the first; in a
  .tsv file the tab, if the first line has one; in a .txt file "||", if each line has it once. The name
  `space` stands for the first blank of a line, as in "label the text". A separator of several signs, such
  as "||", is taken as it is.
- Quotes enclose cells, except in tables by tabs, where they are plain characters unless they are seen to
  enclose: a column that has them in every cell, or a cell with doubled ones in it.
- A first line is no header if none of its cells is a usual name of a column, or one that was asked for, and
  one of them is a value that comes again below. The columns are then called 0, 1, 2, ...
"""

import contextlib
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.data._reading._bytes import ending_of, lines_of
from experiments.errors import UserError

NAMES = {"comma": ",", "tab": "\t", "semicolon": ";", "bar": "|", "pipe": "|", "space": " ", r"\t": "\t"}
_SHOWN = {sign: name for name, sign in NAMES.items() if name not in ("pipe", r"\t")}
_SIGNS = ("\t", ",", ";", "|")
_DOUBLE = "||"  # of the E2E files of the LoRA paper
_MANY = 2  # whole rows inside one quoted cell: its quotation mark may not have been meant to open it

Row = tuple[int, list[str]]  # the line on which it begins, and its cells


class BadQuote(ValueError):
    """A quotation mark that encloses nothing: the reason, and the line on which its row begins."""


@dataclass(frozen=True)
class Dialect:
    """How a table is written."""

    separator: str
    quoted: bool

    def rows(self, text: str) -> Iterator[Row]:
        """The rows that are not empty; BadQuote where a quote stands wrong."""
        if self.separator == " " or len(self.separator) > 1:
            for number, line in enumerate(lines_of(text), 1):
                if line:
                    yield number, line.split(self.separator, 1 if self.separator == " " else -1)
            return
        quoting: Any = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        stream = io.StringIO(text, newline="")
        reader = csv.reader(stream, delimiter=self.separator, quoting=quoting, strict=True)
        start = 1
        try:
            for cells in reader:
                if cells:
                    yield start, cells
                start = reader.line_num + 1
        except csv.Error as error:
            raise BadQuote(str(error), start) from error


def read(
    text: str, file: Path, options: Mapping[str, Any], usual: Collection[str]
) -> tuple[dict[str, list[str]], bool, list[str]]:
    """The cells of a table by column, whether its columns have names, and notes on what was found out.

    Args:
        text: The table.
        file: Where it stands, for errors; its ending counts.
        options: The dataset's; `separator`, `quoting` and `header` are read.
        usual: Names in lower case that show a line to be a header.
    """
    csv.field_size_limit(2**31 - 1)
    said = re.match(r"sep=(.)(?:\r\n|\n|\r)", text)  # what Excel writes for itself
    if said:
        text, options = text[said.end() :], {"separator": said[1], **_given(options)}
    _refuse_json(text, file)
    dialect = _dialect(text, file, options)
    rows = _read(dialect, text, file)
    header = options.get("header")
    named = _has_header(rows, usual) if header is None else bool(header)
    names = list(rows[0][1]) if named else [str(number) for number in range(len(rows[0][1]))]
    body = rows[1:] if named else rows
    if not body:
        raise UserError(f"{file} has a header ({', '.join(names)}) and no rows. Give a row per example")
    columns = _columns(names, body, file)
    notes = _notes(file, dialect, named, options, rows)
    blank = [name for name in columns if not name.strip()]
    if blank:
        notes.append(f"{file.name} has a column without a name, which is ignored")
    return {name: cells for name, cells in columns.items() if name.strip()}, named, notes


def _refuse_json(text: str, file: Path) -> None:
    line = text.lstrip()[:100_000].split("\n", 1)[0].strip()
    if line[:1] in ("{", "["):
        with contextlib.suppress(ValueError):
            if line not in ("{", "["):
                json.loads(line)
            raise UserError(f"{file} looks like JSON, not like a table with a header. Give dataset=jsonl")


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _notes(
    file: Path, dialect: Dialect, named: bool, options: Mapping[str, Any], rows: Sequence[Row]
) -> list[str]:
    """What was found out and is not as CSV has it."""
    found = []
    if options.get("separator") is None and dialect.separator not in (",", "\t"):
        sign = _SHOWN.get(dialect.separator, dialect.separator)
        found.append(f"columns are separated by {sign} (dataset.separator=... sets it)")
    if (
        options.get("quoting") is None
        and not dialect.quoted
        and any('"' in c for _, row in rows for c in row)
    ):
        found.append("quotation marks are part of the text (dataset.quoting=true lets them enclose cells)")
    if options.get("header") is None and not named:
        found.append("the first line is no header, and columns are numbered from 0 (dataset.header=true)")
    notes = [f"{file.name}: {'; '.join(found)}"] if found else []
    if named and (repeated := sum(cells == rows[0][1] for _, cells in rows[1:])):
        notes.append(
            f"{file.name}: the header is repeated among the rows {repeated} times, as a row like any other"
        )
    swallowing = _swallowing(dialect, rows) if dialect.quoted else []
    if swallowing:
        notes.append(
            f"{file.name}, line {swallowing[0]}: a quoted cell holds whole rows ({len(swallowing)} such "
            "cells). If its quotation mark is part of the text, give dataset.quoting=false"
        )
    return notes


def _swallowing(dialect: Dialect, rows: Sequence[Row]) -> list[int]:
    """The lines of rows one of whose cells holds lines that are rows themselves."""
    separators = len(rows[0][1]) - 1
    found = []
    for line, cells in rows if separators else ():
        for cell in cells:
            inside = lines_of(cell)[1:-1] if "\n" in cell or "\r" in cell else []
            if len(inside) >= _MANY and all(part.count(dialect.separator) == separators for part in inside):
                found.append(line)
    return found


def _dialect(text: str, file: Path, options: Mapping[str, Any]) -> Dialect:
    """As the options say, and for the rest as the table shows."""
    given, quoting = options.get("separator"), options.get("quoting")
    if given is not None:
        separator = NAMES.get(str(given).lower(), str(given))
        return Dialect(separator, _encloses(separator, text) if quoting is None else bool(quoting))
    first = lines_of(text.lstrip("\r\n")[:100_000])[0] if text.strip() else ""
    candidates = [
        Dialect(sign, _encloses(sign, text) if quoting is None else bool(quoting))
        for sign in _SIGNS
        if sign in first
    ]
    if ending_of(file) in (".tsv", ".tab") and "\t" in first:
        return next(dialect for dialect in candidates if dialect.separator == "\t")
    if ending_of(file) == ".txt" and all(line.count(_DOUBLE) == 1 for line in lines_of(text) if line):
        return Dialect(_DOUBLE, False)
    fits = []
    for dialect in candidates:
        fits.append(_fit(dialect, text))
        if fits[-1] == 1:
            return dialect
    return candidates[fits.index(max(fits))] if fits else Dialect(",", quoting is not False)


def _fit(dialect: Dialect, text: str) -> float:
    """The share of rows that are as wide as the first one; 0 where that has one cell only."""
    widths: list[int] = []
    try:
        widths += (len(cells) for _, cells in dialect.rows(text))
    except BadQuote:
        widths.append(0)
    if not widths or widths[0] < 2:
        return 0
    slack = {widths[0], widths[0] + 1}  # a separator at the end of the lines, a number before them
    return sum(width in slack for width in widths) / len(widths)


def _encloses(separator: str, text: str) -> bool:
    """Whether quotes enclose cells."""
    if '"' not in text or separator != "\t":
        return separator != "\t" and separator != " " and len(separator) == 1
    plain = [cells for _, cells in Dialect(separator, False).rows(text)]
    if len({len(cells) for cells in plain}) > 1 and _fit(Dialect(separator, True), text) == 1:
        return True  # a text with a tab or a line break in quotes
    doubled = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')
    if any(doubled.fullmatch(cell) and cell != '""' for cells in plain for cell in cells):
        return all(_well_formed(cell) for cells in plain for cell in cells)
    columns = zip(*(cells for cells in plain[1:] if len(cells) == len(plain[0])), strict=False)
    return any(all(_enclosed(cell) for cell in column if cell) and any(column) for column in columns) and all(
        _well_formed(cell) for cells in plain for cell in cells
    )


def _enclosed(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"'


def _well_formed(cell: str) -> bool:
    """Whether a cell could be one of a table with quotes: none at its ends, or both and doubled between."""
    return not cell.startswith('"') or (_enclosed(cell) and '"' not in cell[1:-1].replace('""', ""))


def _read(dialect: Dialect, text: str, file: Path) -> list[Row]:
    try:
        rows = list(dialect.rows(text))
    except BadQuote as error:
        reason, start = error.args
        plain = len({len(cells) for _, cells in Dialect(dialect.separator, False).rows(text)}) == 1
        hint = ", or give dataset.quoting=false if quotation marks are part of the texts" if plain else ""
        raise UserError(
            f"{file}, line {_opening(text, start, dialect.separator)}: not valid CSV: {reason}. Quotes "
            f"inside a quoted text are doubled{hint}"
        ) from error
    if not rows:
        raise UserError(f"{file} is empty. Give a file with a row per example")
    single = len(rows[0][1]) == 1
    return [(line, cells) for line, cells in rows if single or len(cells) > 1 or cells[0].strip()]


def _opening(text: str, line: int, separator: str) -> int:
    """The line of the quotation mark that opens the cell that is wrong, from the line of its row on."""
    rest = "\n".join(lines_of(text)[line - 1 :]) + "\n"
    cell = re.compile(rf'(?:"(?:[^"]|"")*"|(?!")[^{re.escape(separator)}\n]*)([{re.escape(separator)}\n])')
    place = 0
    while (found := cell.match(rest, place)) and found[1] != "\n":
        place = found.end()
    return line + rest[:place].count("\n")


def _has_header(rows: Sequence[Row], usual: Collection[str]) -> bool:
    first = [cell.strip() for cell in rows[0][1]]
    numbers = [cell for cell in first if cell]
    if any(cell.lower() in usual for cell in first) or numbers == [str(n) for n in range(len(numbers))]:
        return True
    for number, cell in enumerate(first):
        below = Counter(cells[number].strip() for _, cells in rows[1:] if len(cells) > number)
        if cell and below[cell] and len(below) <= max(20, len(rows) // 2):
            return False
    return True


def _columns(names: list[str], rows: Sequence[Row], file: Path) -> dict[str, list[str]]:
    """The cells by column. A row of another width is an error, since its cells would be taken for others."""
    widths = {len(cells) for _, cells in rows}
    if widths == {len(names) + 1} and _counts([cells[0] for _, cells in rows]):
        names = ["", *names]  # R writes numbers before the rows and no name over them
    named = [name for name in names if name.strip()]
    if len(set(named)) < len(named):
        raise UserError(
            f"{file}: the header names a column twice: {', '.join(names)[:200]}. Rename one of them"
        )
    for line, cells in rows:
        surplus, lacking = cells[len(names) :], names[len(cells) :]
        if (len(surplus) > 1 or any(surplus)) or (len(lacking) > 1 or any(name.strip() for name in lacking)):
            raise UserError(
                f"{file}, line {line}: {len(cells)} fields, but the header ({', '.join(names)[:200]}) has "
                f"{len(names)}. A text that holds the separator or a line break needs double quotes around it"
            )
    return {
        name: [cells[number] if number < len(cells) else "" for _, cells in rows]
        for number, name in enumerate(names)
    }


def _counts(cells: Sequence[str]) -> bool:
    """Whether the cells are 0, 1, 2, ... or 1, 2, 3, ..."""
    return any(list(cells) == [str(first + n) for n in range(len(cells))] for first in (0, 1))
