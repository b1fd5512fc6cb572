"""Show a dataset.

python -m experiments.data scipy_topics
python -m experiments.data csv path=reviews.csv label=stars
"""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import yaml

from experiments.config.groups import CONF, Conf
from experiments.data import names, read_options
from experiments.data._tasks import RawTask
from experiments.errors import UserError, did_you_mean, report_errors


def main(arguments: Sequence[str]) -> int:
    """Print what a dataset holds; the exit code is 2 if it cannot be used."""
    if not arguments or arguments[0] in ("-h", "--help"):
        known = ", ".join(Conf(CONF).choices("dataset"))
        print(f"usage: python -m experiments.data <dataset> [option=value ...]\ndatasets: {known}")
        return 0 if arguments else 2
    return report_errors(lambda: _show(*arguments))


def _show(name: str, *words: str) -> None:
    start = time.perf_counter()
    chosen = options(name, words)
    print(describe(read_options(str(chosen.get("name") or name), chosen)))
    print(f"read in {time.perf_counter() - start:.2f} s")


def options(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The options of the dataset's yaml with the given ones in their places, read as a command reads them."""
    conf = Conf(CONF)
    choices = conf.choices("dataset")
    if name not in (*choices, *names()):
        raise UserError(
            f"there is no dataset {name!r}.{did_you_mean(name, choices)} Known: {', '.join(choices)}. To add "
            f"one, write conf/dataset/{name}.yaml; any table of the hub is: hub name=owner/table"
        )
    keys = conf.keys("dataset", name) if name in choices else {}
    known = {key.removeprefix("dataset."): kind for key, kind in keys.items()}
    options = {key: conf.read("dataset", name)[key] for key in known}
    for override in overrides:
        key, _, text = override.removeprefix("dataset.").partition("=")
        if known and key not in known:
            raise UserError(
                f"{name} has no option {key!r}.{did_you_mean(key, options)} Known: {', '.join(options)}"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:  # a sign such as | or a text with a colon
            value = text
        try:
            options[key] = known[key].convert(value) if known else value
        except ValueError as error:
            raise UserError(str(error)) from error
    return options


def describe(raw: RawTask) -> str:
    """Sizes, classes, examples, notes and hashes as text."""
    lines = [f"{raw.name}: {raw.kind}, {sum(map(len, raw.splits.values()))} examples"]
    for split, rows in raw.splits.items():
        lines.append(f"  {split:<10} {len(rows):>6}  sha256 {rows.sha256}")
    if raw.labels:
        labels = (label for rows in raw.splits.values() for label in rows.labels)
        counts = Counter(name for label in labels for name in _named(raw, label))
        shares = (f"{name} {counts[name]}" for name in raw.labels)
        lines.append(f"  {len(raw.labels)} classes: {', '.join(shares)}")
    lines += _examples(raw)
    lines += [f"  note: {note}" for note in raw.notes]
    return "\n".join([*lines, f"  fingerprint {raw.fingerprint}"])


def _examples(raw: RawTask) -> list[str]:
    rows = raw.splits["train"]
    lines = []
    for index in range(min(3, len(rows))):
        texts = [_short(part[index]) for part in (rows.texts, rows.seconds) if part]
        if rows.texts and rows.labels:
            said = ", ".join(_named(raw, rows.labels[index]))
            lines.append(f"  {rows.ids[index]}  {said}: {' | '.join(texts)}")
            continue
        lines += [f"  {rows.ids[index]}", *(f"    {text}" for text in texts)]
        lines += [f"    {role}: {_short(text)}" for role, text in (rows.turns[index] if rows.turns else ())]
        for number, option in enumerate(rows.options[index] if rows.options else ()):
            lines.append(f"    {'right' if number == rows.labels[index] else 'wrong'}: {_short(option)}")
    return lines


def _named(raw: RawTask, label: Any) -> list[str]:
    """The names of an example's class or classes; a value as it is."""
    if not raw.labels:
        return [str(label)]
    return [raw.labels[number] for number in ([label] if isinstance(label, int) else sorted(label))]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 160 else f"{line[:157]}..."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
