"""Show a dataset.

python -m experiments.data scipy_topics
python -m experiments.data csv path=reviews.csv label=stars
"""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.data import names, read_options
from experiments.data._tasks import RawTask
from experiments.errors import UserError, did_you_mean

CONF = Path(__file__).resolve().parents[2] / "conf" / "dataset"


def main(arguments: Sequence[str]) -> int:
    """Print what a dataset holds; the exit code is 2 if it cannot be used."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            f"usage: python -m experiments.data <dataset> [option=value ...]\ndatasets: {', '.join(names())}"
        )
        return 0 if arguments else 2
    start = time.perf_counter()
    try:
        raw = read_options(arguments[0], _options(arguments[0], arguments[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(describe(raw))
    print(f"read in {time.perf_counter() - start:.2f} s")
    return 0


def _options(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The options of the dataset's yaml with the given ones in their places."""
    path = CONF / f"{name}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    options = {key: value for key, value in content.items() if key not in ("name", "ranges")}
    for override in overrides:
        key, _, value = override.removeprefix("dataset.").partition("=")
        if options and key not in options:
            raise UserError(
                f"{name} has no option {key!r}.{did_you_mean(key, options)} Known: {', '.join(options)}"
            )
        options[key] = yaml.safe_load(value)
    return options


def describe(raw: RawTask) -> str:
    """Sizes, classes, examples, notes and hashes as text."""
    lines = [f"{raw.name}: {raw.kind}, {sum(map(len, raw.splits.values()))} examples"]
    for split, rows in raw.splits.items():
        lines.append(f"  {split:<10} {len(rows):>6}  sha256 {rows.sha256}")
    if raw.labels:
        counts = Counter(label for rows in raw.splits.values() for label in rows.labels)
        shares = (f"{name} {counts[number]}" for number, name in enumerate(raw.labels))
        lines.append(f"  {len(raw.labels)} classes: {', '.join(shares)}")
    lines += _examples(raw)
    lines += [f"  note: {note}" for note in raw.notes]
    return "\n".join([*lines, f"  fingerprint {raw.fingerprint}"])


def _examples(raw: RawTask) -> list[str]:
    rows = raw.splits["train"]
    lines = []
    for index in range(min(3, len(rows))):
        if raw.labels:
            lines.append(
                f"  {rows.ids[index]}  {raw.labels[rows.labels[index]]}: {_short(rows.texts[index])}"
            )
        else:
            lines.append(f"  {rows.ids[index]}")
            lines += [f"    {role}: {_short(text)}" for role, text in rows.turns[index]]
    return lines


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 160 else f"{line[:157]}..."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
