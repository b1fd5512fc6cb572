"""Reading tables of text with `datasets`: every cell as it is written, and an error that names the line.

A CSV is read as text throughout, so that a label 1 stays "1" and a text "NA" stays a text; columns are
never guessed to be numbers or missing. `datasets` keeps its converted copy in a folder that is gone
afterwards: what is worth keeping is cached by content elsewhere.
"""

import csv
import glob
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.errors import UserError

Table = dict[str, list[Any]]  # column -> cells, all of one length


def read_csv(files: Sequence[Path]) -> Table:
    """The cells of one split's CSV (or TSV, or semicolon) files, as text."""
    tables = []
    for file in files:
        header, delimiter = _check_csv(file)
        options = {"sep": delimiter, "encoding": "utf-8-sig", "keep_default_na": False}
        tables.append(_load("csv", file, columns=header, **options))
    return _joined(tables, files)


def read_json(files: Sequence[Path]) -> Table:
    """The fields of one split's JSON-lines files (or files that hold one JSON list)."""
    return _joined([_load("json", file) for file in files], files)


def _load(kind: str, file: Path, *, columns: Sequence[str] | None = None, **options: Any) -> Table:
    import datasets

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(logging.CRITICAL)
    text = datasets.Value("string")
    features = datasets.Features({name: text for name in columns}) if columns else None
    with tempfile.TemporaryDirectory(prefix="ablora-") as folder:
        try:
            data = datasets.load_dataset(
                kind,
                data_files=[glob.escape(str(file))],
                split="train",
                cache_dir=folder,
                features=features,
                **options,
            )
            return dict(data[:])
        except (datasets.exceptions.DatasetGenerationError, ValueError, StopIteration) as error:
            raise _unreadable(kind, file, error) from error


def _joined(tables: Sequence[Table], files: Sequence[Path]) -> Table:
    for table, file in zip(tables, files, strict=True):
        if set(table) != set(tables[0]):
            raise UserError(
                f"{file.name} has the columns {', '.join(table)}, but {files[0].name} has "
                f"{', '.join(tables[0])}. Files of one split need the same columns"
            )
    return {name: [cell for table in tables for cell in table[name]] for name in tables[0]}


def _check_csv(file: Path) -> tuple[list[str], str]:
    """The header and the delimiter of a table whose rows all have the header's width."""
    csv.field_size_limit(2**31 - 1)
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            delimiter = "," if "," in first else max("\t;", key=first.count)
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            header = _check_header(next(reader), file)
            if not _check_widths(reader, header, file):
                raise UserError(
                    f"{file} has a header ({', '.join(header)}) and no rows. Give a row per example"
                )
    except UnicodeDecodeError as error:
        raise _not_utf8(file) from error
    except csv.Error as error:
        raise UserError(
            f"{file}, line {reader.line_num}: not valid CSV: {error}. Quotes inside a quoted text are doubled"
        ) from error
    return header, delimiter


def _check_header(header: list[str], file: Path) -> list[str]:
    if header and header[0].lstrip().startswith(("{", "[")):
        raise UserError(f"{file} looks like JSON, not like a table with a header. Give dataset=jsonl")
    if len(set(header)) < len(header):
        raise UserError(
            f"{file}: the header names a column twice: {', '.join(header)[:200]}. Rename one of them"
        )
    return header


def _check_widths(reader: Any, header: Sequence[str], file: Path) -> int:
    """The number of rows. One of another width is an error, since its cells would be taken for others."""
    rows = 0
    for row in reader:
        rows += bool(row)
        if row and len(row) != len(header):
            raise UserError(
                f"{file}, line {reader.line_num}: {len(row)} fields, but the header "
                f"({', '.join(header)[:200]}) has {len(header)}. A text that holds the separator or a line "
                "break needs double quotes around it"
            )
    return rows


def _not_utf8(file: Path) -> UserError:
    command = f"iconv -f latin1 -t utf-8 {file.name} > utf8_{file.name}"
    return UserError(f"{file} is not UTF-8 text. Convert it, for example: {command}")


def _unreadable(kind: str, file: Path, error: Exception) -> UserError:
    """An error that names the first bad line of a JSON-lines file, or else what `datasets` said."""
    reason = error.__cause__ or error
    if isinstance(reason, UnicodeDecodeError):
        return _not_utf8(file)
    if kind == "json":
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            try:
                if line.strip():
                    json.loads(line)
            except ValueError as bad:
                return UserError(
                    f"{file}, line {number} is not JSON ({bad}). One object per line is needed, such as "
                    '{"text": "...", "label": "..."}; for a table give dataset=csv'
                )
    return UserError(f"{file} cannot be read as {kind}: {reason}. Is it the right kind of file?")
