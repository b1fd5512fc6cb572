"""Where measurements go beside the terminal."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path


def write_csv(path: Path | None, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table to a file, if one was asked for."""
    if path is not None:
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
