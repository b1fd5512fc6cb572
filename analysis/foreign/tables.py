"""Long tables: a CSV with a row per run, and what W&B exports of a project's runs, as CSV or JSON."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.foreign.columns import Columns
from analysis.foreign.result import Result
from experiments.errors import UserError

Rows = Sequence[tuple[str, Mapping[str, Any]]]  # (place, values by column)


def long_csv(path: Path, metric: str | None = None) -> list[Result]:
    """The runs of a CSV (or TSV) with a heading and one row per run."""
    return _results(path, _csv(path), metric)


def wandb(path: Path, metric: str | None = None) -> list[Result]:
    """The runs of a W&B export: the CSV of the runs' table, or JSON with config and summary of each run."""
    return _results(path, _json(path) if path.suffix == ".json" else _csv(path), metric)


def _results(path: Path, rows: Rows, metric: str | None) -> list[Result]:
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    if not rows:
        raise UserError(f"{path.name} holds no run: there is no row below its heading.")
    columns = Columns(names, path.name, metric)
    return [columns.result(row, place) for place, row in rows]


def _csv(path: Path) -> Rows:
    text = read_text(path)
    try:
        dialect: Any = csv.Sniffer().sniff(text[:4096], delimiters=",;\t")
    except csv.Error:
        dialect = csv.excel
    reader = csv.reader(text.splitlines(), dialect)
    names = [name.strip() for name in next(reader, [])]
    rows = []
    for values in reader:
        place = f"{path.name}, line {reader.line_num}"
        if not any(value.strip() for value in values):
            continue
        if len(values) != len(names):
            raise UserError(f"{place} has {len(values)} values, the heading names {len(names)} columns.")
        rows.append((place, dict(zip(names, values, strict=True))))
    return rows


def _json(path: Path) -> Rows:
    """Runs as W&B's API gives them: [{"name": ..., "state": ..., "config": {...}, "summary": {...}}]."""
    content = parsed(path)
    if isinstance(content, dict):
        content = content.get("runs")
    if not isinstance(content, list) or not all(isinstance(run, dict) for run in content):
        raise UserError(f"{path.name} is not a list of runs, each with config and summary.")
    rows = []
    for i, run in enumerate(content):
        row: dict[str, Any] = {"state": run.get("state", "finished")}
        for part in ("summary", "summary_metrics", "config"):
            row |= dict(_flat(run.get(part) or {}))
        rows.append((f"{path.name}, run {run.get('name') or i + 1}", row))
    return rows


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by dotted name; W&B's files wrap each in {"value": ...}."""
    for key, value in values.items():
        if isinstance(value, dict) and "value" in value:
            value = value["value"]
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list) and not str(key).startswith("_"):
            yield f"{prefix}{key}", value


def read_text(path: Path) -> str:
    """The text of a file; UserError where there is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not a text file in UTF-8.") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error


def parsed(path: Path) -> Any:
    """The content of a JSON file; UserError where it is none."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path.name} is not JSON: {error}.") from error
