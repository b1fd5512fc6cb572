"""Files without columns: a label at the head of every line, or one sentence a line in a file per class."""

import re

from experiments.data._reading._bytes import lines_of

_FORMS = (
    (
        re.compile(r"([A-Z]+):([a-z]+) +(\S.*)"),
        ("label", "fine", "text"),
        "every line is a class, a finer class and a text (the form of TREC); label is the first of them, and "
        "dataset.label=fine takes the other",
    ),
    (
        re.compile(r"__label__(\S+)[ \t,]+(?!__label__)(\S.*)"),
        ("label", "text"),
        "every line is a __label__ and a text (the form of fastText)",
    ),
)


def labelled(text: str) -> tuple[dict[str, list[str]], str] | None:
    """The columns of lines that begin with their label, and what to say of them; None if they do not."""
    lines = [line for line in lines_of(text) if line.strip()]
    for form, names, remark in _FORMS:
        found = [form.fullmatch(line.strip()) for line in lines]
        if found and all(found):
            rows = [match.groups() for match in found if match]
            return {
                name: list(cells) for name, cells in zip(names, zip(*rows, strict=True), strict=True)
            }, remark
    return None


def of_class(text: str, label: str) -> dict[str, list[str]]:
    """A sentence a line, all of one class."""
    lines = [line for line in lines_of(text) if line.strip()]
    return {"text": lines, "label": [label] * len(lines)}
