"""Which column is the text and which the label: as the user says, else by the usual names of such columns."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.errors import UserError, did_you_mean

USUAL = {
    "text": (
        "text", "sentence", "review", "input", "content", "document", "question", "query", "utterance",
        "message", "comment", "tweet", "title", "body",
    ),
    "label": (
        "label", "labels", "category", "class", "target", "intent", "topic", "sentiment", "stars", "rating",
        "output", "answer", "y", "quality",
    ),
    "prompt": ("prompt", "instruction", "question", "input", "query", "source"),
    "completion": ("completion", "response", "output", "answer", "target"),
}  # fmt: skip
PAIRS = (
    ("sentence1", "sentence2"), ("#1 string", "#2 string"), ("premise", "hypothesis"),
    ("question1", "question2"), ("text1", "text2"), ("text_a", "text_b"),
)  # fmt: skip

Chosen = dict[str, tuple[str, ...]]  # role -> its columns, in order


def choose(
    columns: Mapping[str, Sequence[Any]],
    options: Mapping[str, Any],
    roles: Sequence[str],
    *,
    named: bool = True,
    key: str = "dataset.{role}=",
) -> tuple[Chosen, list[str]]:
    """The columns of each role.

    Args:
        columns: What the file has, by name.
        options: The dataset's options; those named after a role are read: a column or several.
        roles: Such as ("text", "label").
        named: Whether the columns have names; numbered ones are guessed by what they hold.
        key: How a user names the column of a role, for the errors.

    Returns:
        Role -> columns (several texts are one after the other), and notes on what was guessed or joined.
    """
    chosen: Chosen = {}
    for role in USUAL:
        given = options.get(role)
        names = () if given is None else (given,) if isinstance(given, str) else tuple(map(str, given))
        for name in names if role in roles else ():
            if name not in columns:
                several = name.split(",")
                listed = key.startswith("dataset.") and len(several) > 1 and {*several} <= columns.keys()
                give = f"[{name}]" if listed else "<column>"
                raise UserError(
                    f"{key.format(role=role)}{name}: there is no such column. There are: "
                    f"{', '.join(columns)}.{'' if listed else did_you_mean(name, columns)} Give "
                    f"{key.format(role=role)}{give}"
                )
        if names and all(name in columns for name in names):
            chosen[role] = names
    guessed = [role for role in roles if role not in chosen]
    lacking = []
    for role in guessed:
        free = _free(columns, chosen)
        found = _by_name(role, free) if named else _by_content(role, free, len(columns))
        if found:
            chosen[role] = found
        else:
            lacking.append(role)
    free = _free(columns, chosen)
    if lacking == [roles[0]] and len(roles) > 1 and len(free) == 1 and named:
        chosen[lacking.pop()] = tuple(free)  # what stands beside a label, or a completion
    if lacking:
        raise _unknown(lacking[0], columns, key.format(role=lacking[0]), named=named)
    notes = [
        f"{role} is the column{'s' * (len(chosen[role]) > 1)} {' and '.join(map(repr, chosen[role]))} "
        f"(guessed; dataset.{role}=... sets it)"
        for role in guessed
    ]
    if len(texts := chosen.get("text", ())) > 1 and "text" in roles:
        notes.append(
            f"the columns {' and '.join(map(repr, texts))} are joined to one text, a line each; they are "
            "not passed to the tokenizer as a pair"
        )
    return {role: chosen[role] for role in roles}, notes


def first_of(
    columns: Mapping[str, Sequence[Any]],
    options: Mapping[str, Any],
    roles: tuple[str, str],
    *,
    named: bool,
    key: str,
) -> tuple[str, ...]:
    """The columns of the first of two roles, as `choose` tells them in training, where both are there."""
    if len(columns) == 1:
        return tuple(columns)
    for wanted in (roles[:1], roles):
        with contextlib.suppress(UserError):
            return choose(columns, options, wanted, named=named, key=key)[0][roles[0]]
    return choose(columns, options, roles[:1], named=named, key=key)[0][roles[0]]


def _free(columns: Mapping[str, Sequence[Any]], chosen: Chosen) -> dict[str, Sequence[Any]]:
    taken = {name for names in chosen.values() for name in names}
    return {name: cells for name, cells in columns.items() if name not in taken}


def _by_name(role: str, free: Mapping[str, Any]) -> tuple[str, ...]:
    by_name = {name.strip().lower(): name for name in reversed(list(free))}
    for usual in USUAL[role]:
        if usual in by_name:
            return (by_name[usual],)
    for pair in PAIRS if role == "text" else ():
        if all(name in by_name for name in pair):
            return tuple(by_name[name] for name in pair)
    return ()


def _by_content(role: str, free: Mapping[str, Sequence[Any]], width: int) -> tuple[str, ...]:
    """Of numbered columns: the longest texts, and the complete column with the fewest different values."""
    if role == "text" and free:
        return (max(free, key=lambda name: sum(map(len, map(str, free[name])))),)
    if role == "label":
        values = {name: {str(cell).strip() for cell in cells} for name, cells in free.items()}
        complete = [name for name, found in values.items() if "" not in found and len(found) > 1]
        return (min(complete, key=lambda name: len(values[name])),) if complete else ()
    return tuple(free)[:1] if width == 2 else ()


def _unknown(role: str, columns: Mapping[str, Any], key: str, *, named: bool) -> UserError:
    if not named:
        return UserError(
            f"the file has no header, and it is not clear which of its columns {', '.join(columns)} is the "
            f"{role}. Say which: {key}<number>"
        )
    return UserError(
        f"none of the columns {', '.join(columns) or '(none)'} is named like a {role} (known: "
        f"{', '.join(USUAL[role])}). Say which it is: {key}<column>"
    )
