"""Text classification from a table of the user's own: checks of every cell, classes by name, splits."""

import math
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from experiments.data._columns import Chosen, choose, first_of
from experiments.data._reading import Table
from experiments.data._tasks import RawTask, Rows, carve, check_sizes, few
from experiments.errors import UserError, did_you_mean

Example = tuple[str, str]  # (text, name of the class)


def build(name: str, tables: Mapping[str, Table], used: Sequence[str], options: Mapping[str, Any]) -> RawTask:
    """The task in one table per given split; `used` are the notes on which files were read."""
    tables, chosen, notes = _chosen(tables, options)
    notes += [*used, *(note for table in tables.values() for note in table.notes)]
    missing = options.get("missing") or "error"
    if missing not in ("error", "drop"):
        raise UserError(
            f"dataset.missing={missing} is neither error nor drop.{did_you_mean(missing, ('error', 'drop'))}"
        )
    pairs = {
        split: list(zip(*(_cells(table, chosen[role], split) for role in ("text", "label")), strict=True))
        for split, table in tables.items()
    }
    pools = {
        split: _whole(part, chosen, split=split, drop=missing == "drop") for split, part in pairs.items()
    }
    dropped = sum(map(len, pairs.values())) - sum(map(len, pools.values()))
    if dropped:
        notes.append(f"rows without a text or a label, dropped: {dropped} (dataset.missing=drop)")
    column = " and ".join(chosen["label"])
    _check_classes([label for pool in pools.values() for _, label in pool], column)
    parts, carved = carve(pools, text=lambda example: example[0], label=lambda example: example[1])
    check_sizes(parts)
    labels = _classes(parts)
    number = {label: index for index, label in enumerate(labels)}
    splits = {
        split: Rows.classification((text, number[label]) for text, label in part)
        for split, part in parts.items()
    }
    notes += [*carved, *few(parts), *_repeated(parts), *_similar(labels), *_measured(labels, column)]
    return RawTask(name, "classification", labels, splits, tuple(notes))


def texts(table: Table, options: Mapping[str, Any], *, key: str) -> tuple[list[str], tuple[str, ...]]:
    """The texts of a table as training reads them, "" where there is none, and the columns they stand in."""
    chosen = first_of(table.columns, options, ("text", "label"), named=table.named, key=key)
    return _cells(table, chosen, "input"), chosen


def _chosen(
    tables: Mapping[str, Table], options: Mapping[str, Any]
) -> tuple[Mapping[str, Table], Chosen, list[str]]:
    """The tables that are used, the columns of text and label, and notes; a test part may have no labels."""
    train, roles = tables["train"], ("text", "label")
    common = {
        name: cells
        for name, cells in train.columns.items()
        if all(name in table.columns for table in tables.values())
    }
    rest = {split: table for split, table in tables.items() if split != "test"}
    try:
        chosen, notes = choose(common, options, roles, named=train.named)
    except UserError:
        if len(rest) == len(tables):
            raise
        _, chosen, notes = _chosen(rest, options)
        if set(chosen["label"]) & set(tables["test"].columns):
            raise
    else:
        cells = tables["test"].columns[chosen["label"][0]] if "test" in tables else []
        if not cells or {str(cell).strip() for cell in cells} != {"-1"}:
            return tables, chosen, notes
    return rest, chosen, [*notes, "the test file has no labels and is ignored"]


def _cells(table: Table, columns: Sequence[str], split: str) -> list[str]:
    """The text of every row, "" where one of its columns has none; several stand on lines of their own."""
    found = [
        [_text(cell, f"{split}, row {row}, {name}") for row, cell in enumerate(table.columns[name], 1)]
        for name in columns
    ]
    return ["\n".join(row) if all(row) else "" for row in zip(*found, strict=True)]


def _whole(pairs: list[Example], chosen: Chosen, *, split: str, drop: bool) -> list[Example]:
    """The rows that have both; the others are an error, or left out."""
    gaps = [row for row, pair in enumerate(pairs, 1) if not all(pair)]
    if gaps and not drop:
        rows = ", ".join(map(str, gaps[:5])) + (", ..." if len(gaps) > 5 else "")
        raise UserError(
            f"{len(gaps)} of {len(pairs)} rows of {split} have no text ({', '.join(chosen['text'])}) or no "
            f"label ({', '.join(chosen['label'])}): row {rows}, counted without the header. Fill them in, or "
            "leave those rows out with dataset.missing=drop"
        )
    if len(gaps) == len(pairs):
        raise UserError(
            f"{split} has no rows with a text and a label. Give a file with some rows for every class"
        )
    return [pair for pair in pairs if all(pair)]


def _text(cell: Any, where: str) -> str:
    """A cell as text; "" stands for a missing value."""
    if cell is None or cell != cell:  # NaN
        return ""
    if isinstance(cell, dict | list):
        raise UserError(f"{where} holds {str(cell)[:60]!r}, which is not one text. Name another column")
    if isinstance(cell, float) and cell.is_integer():  # JSON's whole numbers beside a null arrive as floats
        return str(int(cell))
    return str(cell).strip()


def _check_classes(labels: Sequence[str], column: str) -> None:
    """Refuse a column that holds no classes."""
    values, rows = set(labels), len(labels)
    if len(values) == 1:
        raise UserError(
            f"the label column {column!r} has one class only ({min(values)[:40]!r}) in {rows} rows. Two or "
            "more are needed; is it the right column (dataset.label)?"
        )
    if len(values) > max(20, rows // 2):
        raise UserError(
            f"the label column {column!r} has {len(values)} different values in {rows} rows, such as "
            f"{min(values)[:40]!r}: free text or numbers rather than classes. Name the column of the "
            "classes: dataset.label=<column>"
        )


def _classes(parts: Mapping[str, Sequence[Example]]) -> tuple[str, ...]:
    """The names of the classes in training, in order; a label that only another split has is an error."""
    taught = {label for _, label in parts["train"]}
    for split in ("validation", "test"):
        unknown = sorted({label for _, label in parts[split]} - taught)
        if unknown:
            raise UserError(
                f"{split} has labels that training never shows: {', '.join(unknown[:5])}"
                f"{' and more' if len(unknown) > 5 else ''} (training has {', '.join(sorted(taught)[:10])}). "
                f"Add examples of them to training, leave them out of {split}, or correct their spelling"
            )
    if len(taught) == 1:
        raise UserError(
            f"all training rows are of one class, {min(taught)!r}. Add examples of the others to training"
        )
    return tuple(sorted(taught, key=by_value))


def by_value(label: str) -> tuple[float, str]:
    """Numbers by value, before words by letter; "nan" is a word, since nothing can be sorted by it."""
    try:
        value = float(label)
    except ValueError:
        value = math.inf
    return math.inf if math.isnan(value) else value, label


def _repeated(parts: Mapping[str, Sequence[Example]]) -> list[str]:
    """A note on test texts that training has too: they measure memory."""
    seen = {text for text, _ in parts["train"]}
    return [
        f"{count} of {len(parts[split])} {split} texts also occur in train"
        for split in ("validation", "test")
        if (count := sum(text in seen for text, _ in parts[split]))
    ]


def _similar(labels: Sequence[str]) -> list[str]:
    """A note on classes that look the same: composed and decomposed letters, wide ones, other capitals."""
    written = defaultdict(list)
    for label in labels:
        written[" ".join(unicodedata.normalize("NFKC", label).casefold().split())].append(label)
    pairs = [" and ".join(map(ascii, group)) for group in written.values() if len(group) > 1]
    if not pairs:
        return []
    return [
        f"classes differ only in how they are written (Unicode composition, capitals or blanks): "
        f"{'; '.join(pairs[:5])}. If they are one, write them in one way"
    ]


def _measured(labels: Sequence[str], column: str) -> list[str]:
    """A note on classes that are values of a scale: numbers with a fraction, or many with gaps."""
    try:
        values = sorted(map(float, labels))
    except ValueError:
        return []
    if not all(map(math.isfinite, values)):
        return []
    fractions = [value for value in values if not value.is_integer()]
    gaps = len(values) >= 5 and any(above - below > 1 for below, above in pairwise(values))
    if not (fractions or gaps):
        return []
    return [
        f"the {len(labels)} classes of {column!r} are numbers such as {labels[0]} and {labels[-1]}, and look "
        "like a scale (a regression): as classes, a near miss counts as any other"
    ]
