"""Answers as a table: one row per text and run."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.errors import UserError
from experiments.files import replacing
from experiments.predict import Answer
from experiments.predict._input import Asked

FORMATS = ("csv", "jsonl")


def format_of(path: str | None, form: str | None) -> str:
    """The format to write in; UserError where a file's ending is none."""
    ending = Path(path).suffix.lower().lstrip(".") if path else "csv"
    if form is None and ending not in FORMATS:
        raise UserError(f"--output {path}: give a name that ends in .csv or .jsonl")
    return form or ending


def table(asked: Sequence[Asked], answers: Mapping[str, Sequence[Answer]], form: str) -> str:
    """All answers in the order of the texts, the runs of a text side by side.

    Columns: row, run, the input's other columns, text, prediction, and for classes one `score <class>` each;
    in jsonl these are one object `scores`. A column of the input with one of these names is called
    "input <name>".
    """
    labels = list(next(iter(answers.values()))[0].scores or ())
    scores = ["scores"] if form == "jsonl" else [f"score {label}" for label in labels]
    own = {"row", "run", "text", "prediction", *scores}
    others = {name: f"input {name}" if name in own else name for name in asked[0].others}
    rows = []
    for i, one in enumerate(asked):
        for run, said in answers.items():
            found = said[i].scores or {}
            rows.append(
                {"row": one.row, "run": run}
                | {others[name]: cell for name, cell in one.others.items()}
                | {"text": one.shown, "prediction": said[i].prediction}
                | ({"scores": found} if form == "jsonl" and found else {})
                | ({f"score {label}": f"{found[label]:.7g}" for label in labels} if form == "csv" else {})
            )
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {name: _written(cell) for name, cell in row.items()}
        writer.writerow(cells)
    return out.getvalue()


def _written(cell: object) -> object:
    """A cell for CSV; what JSON alone can hold is written as JSON."""
    return json.dumps(cell, ensure_ascii=False, default=str) if isinstance(cell, dict | list) else cell


def write(text: str, path: Path) -> None:
    """The whole file or none of it."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
