"""Which column is the text and which the label: as the user says, else by the usual names of such columns."""

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
        "output", "answer", "y",
    ),
    "prompt": ("prompt", "instruction", "question", "input", "query", "source"),
    "completion": ("completion", "response", "output", "answer", "target"),
}  # fmt: skip


def choose(
    columns: Sequence[str], options: Mapping[str, Any], roles: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """The column of each role.

    Args:
        columns: What the file has.
        options: The dataset's options; those named after a role are read.
        roles: Such as ("text", "label").

    Returns:
        Role -> column, and a note for every role that was guessed.
    """
    chosen: dict[str, str] = {}
    for role in roles:
        given = options.get(role)
        if given is not None and given not in columns:
            raise UserError(
                f"dataset.{role}={given}: there is no such column. There are: {', '.join(columns)}."
                f"{did_you_mean(str(given), columns)} Give dataset.{role}=<column>"
            )
        if given is not None:
            chosen[role] = str(given)
    guessed = [role for role in roles if role not in chosen]
    for role in guessed:
        chosen[role] = _guess(role, [name for name in columns if name not in chosen.values()], columns)
    return chosen, [
        f"{role} is the column {chosen[role]!r} (guessed; dataset.{role}=... sets it)" for role in guessed
    ]


def _guess(role: str, free: Sequence[str], columns: Sequence[str]) -> str:
    by_name = {name.strip().lower(): name for name in reversed(free)}
    for usual in USUAL[role]:
        if usual in by_name:
            return by_name[usual]
    raise UserError(
        f"none of the columns {', '.join(columns) or '(none)'} is named like a {role} (known: "
        f"{', '.join(USUAL[role])}). Say which it is: dataset.{role}=<column>"
    )
