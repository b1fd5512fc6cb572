"""Text classification from a table of the user's own: checks of every cell, classes by name, splits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.data._columns import choose
from experiments.data._files import used
from experiments.data._tables import Table
from experiments.data._tasks import RawTask, Rows, carve, check_sizes, few
from experiments.errors import UserError, did_you_mean

Example = tuple[str, str]  # (text, name of the class)


def build(
    name: str, tables: Mapping[str, Table], files: Mapping[str, Sequence[Path]], options: Mapping[str, Any]
) -> RawTask:
    """The task in one table per given split."""
    columns = [column for column in tables["train"] if all(column in table for table in tables.values())]
    chosen, notes = choose(columns, options, ("text", "label"))
    notes.append(used(files))
    missing = options.get("missing") or "error"
    if missing not in ("error", "drop"):
        raise UserError(
            f"dataset.missing={missing} is neither error nor drop.{did_you_mean(missing, ('error', 'drop'))}"
        )
    pairs = {split: _pairs(table, chosen, split) for split, table in tables.items()}
    pools = {
        split: _whole(part, chosen, split=split, drop=missing == "drop") for split, part in pairs.items()
    }
    dropped = sum(map(len, pairs.values())) - sum(map(len, pools.values()))
    if dropped:
        notes.append(f"rows without a text or a label, dropped: {dropped} (dataset.missing=drop)")
    _check_classes([label for pool in pools.values() for _, label in pool], chosen["label"])
    parts, carved = carve(pools, text=lambda example: example[0], label=lambda example: example[1])
    check_sizes(parts)
    labels = _classes(parts)
    number = {label: index for index, label in enumerate(labels)}
    splits = {
        split: Rows.classification((text, number[label]) for text, label in part)
        for split, part in parts.items()
    }
    notes += [*carved, *few(parts), *_repeated(parts)]
    return RawTask(name, "classification", labels, splits, tuple(notes))


def _pairs(table: Table, chosen: dict[str, str], split: str) -> list[Example]:
    """The text and the label of every row of one split; "" where it is missing."""
    columns = [
        [_text(cell, f"{split}, row {row}, {name}") for row, cell in enumerate(table[name], 1)]
        for name in (chosen["text"], chosen["label"])
    ]
    return list(zip(*columns, strict=True))


def _whole(pairs: list[Example], chosen: dict[str, str], *, split: str, drop: bool) -> list[Example]:
    """The rows that have both; the others are an error, or left out."""
    gaps = [row for row, pair in enumerate(pairs, 1) if not all(pair)]
    if gaps and not drop:
        rows = ", ".join(map(str, gaps[:5])) + (", ..." if len(gaps) > 5 else "")
        raise UserError(
            f"{len(gaps)} of {len(pairs)} rows of {split} have no text ({chosen['text']}) or no label "
            f"({chosen['label']}): row {rows}, counted without the header. Fill them in, or leave those rows "
            "out with dataset.missing=drop"
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
                f"Add examples of them to training, leave them out of {split}, or mend their spelling"
            )
    if len(taught) == 1:
        raise UserError(
            f"all training rows are of one class, {min(taught)!r}. Add examples of the others to training"
        )
    return tuple(sorted(taught, key=_order))


def _order(label: str) -> tuple[float, str]:
    """Numbers by value, before words by letter."""
    try:
        return float(label), label
    except ValueError:
        return float("inf"), label


def _repeated(parts: Mapping[str, Sequence[Example]]) -> list[str]:
    """A note on test texts that training has too: they measure memory."""
    seen = {text for text, _ in parts["train"]}
    return [
        f"{count} of {len(parts[split])} {split} texts also occur in train"
        for split in ("validation", "test")
        if (count := sum(text in seen for text, _ in parts[split]))
    ]
