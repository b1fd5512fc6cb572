"""Objects of JSON: one a line, a list of them, or the columns of one. Values stay as they are written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.data._reading._bytes import lines_of
from experiments.errors import UserError

EXAMPLE = '{"text": "...", "label": "..."}'


def read(text: str, file: Path) -> dict[str, list[Any]]:
    """The values of every field; None where an object has it not."""
    rows = _rows(text, file)
    names = dict.fromkeys(name for row in rows for name in row)
    if not names:
        raise UserError(f"{file} has no fields in it. One object per line is needed, such as {EXAMPLE}")
    return {name: [row.get(name) for row in rows] for name in names}


def _rows(text: str, file: Path) -> list[dict[str, Any]]:
    lines = [(number, line) for number, line in enumerate(lines_of(text), 1) if line.strip()]
    if lines and _whole(lines[0][1]):
        value = _parsed(text, f"{file}")
        if isinstance(value, list):
            rows = list(enumerate(value, 1))
            return [_object(row, f"{file}, element {number}") for number, row in rows]
        if len(lines) > 1 or _is_columns(value):
            return _of_columns(value, file)
    return [
        _object(_parsed(line, f"{file}, line {number}"), f"{file}, line {number}") for number, line in lines
    ]


def _whole(line: str) -> bool:
    """Whether a first line begins a value that is the whole file."""
    if line.lstrip()[:1] == "[":
        return True
    try:
        return _is_columns(json.loads(line))
    except ValueError:
        return line.strip() == "{"
    except RecursionError:
        return False


def _is_columns(value: Any) -> bool:
    """Whether an object holds whole columns, as DataFrame.to_json() writes them."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(
            isinstance(cells, dict) and cells and all(name.isdigit() for name in cells)
            for cells in value.values()
        )
    )


def _of_columns(value: Mapping[str, Any], file: Path) -> list[dict[str, Any]]:
    columns = {
        name: list(cells.values()) if isinstance(cells, dict) else cells for name, cells in value.items()
    }
    lists = [name for name, cells in columns.items() if isinstance(cells, list)]
    if len(lists) == len(columns) and len({len(cells) for cells in columns.values()}) == 1:
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    raise UserError(
        f"{file} is one JSON object with the fields {', '.join(list(value)[:8])}. Write its examples to a "
        f"file of their own, one object per line, such as {EXAMPLE}"
    )


def _parsed(text: str, where: str) -> Any:
    try:
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except RecursionError as error:
        raise UserError(
            f"{where} is nested too deeply. A flat object is needed, such as {EXAMPLE}"
        ) from error
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} holds half of a surrogate pair (such as \\ud83d alone), which is not a character. "
            "Export the text again from its source"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{where} is not JSON ({error}). One object per line is needed, such as {EXAMPLE}; for a table "
            "give dataset=csv"
        ) from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(
            f"{where} is {str(value)[:60]!r}, not an object with named fields such as {EXAMPLE}. Give every "
            "value a name"
        )
    return value
