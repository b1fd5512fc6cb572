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

    Columns: row, run, text, prediction, and for classes one `score <class>` each; in jsonl these are one
    object `scores`.
    """
    pairs = [(one, run, answers[run][i]) for i, one in enumerate(asked) for run in answers]
    if form == "jsonl":
        rows = (
            {"row": one.row, "run": run, "text": one.shown, "prediction": answer.prediction}
            | ({"scores": answer.scores} if answer.scores else {})
            for one, run, answer in pairs
        )
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    labels = list(pairs[0][2].scores or ())
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "run", "text", "prediction", *(f"score {label}" for label in labels)])
    for one, run, answer in pairs:
        scores = (f"{(answer.scores or {})[label]:.7g}" for label in labels)
        writer.writerow([one.row, run, one.shown, answer.prediction, *scores])
    return out.getvalue()


def write(text: str, path: Path) -> None:
    """The whole file or none of it."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
