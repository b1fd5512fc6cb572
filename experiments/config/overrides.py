"""The words of a command, `key=value`, read with Hydra's own grammar."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString
from hydra.errors import HydraException

_WORD = re.compile(r"[+~]*([A-Za-z_][\w./@:-]*)=(.*)", re.DOTALL)
_OPEN = "hydra.launcher.resources."  # takes names that its file need not have
_parser = OverridesParser.create()


@dataclass(frozen=True)
class Word:
    """One word: a key and its values, several where the command sweeps."""

    text: str
    key: str
    values: tuple[Any, ...]
    spelling: str  # the first value as Hydra's grammar writes it
    swept: bool = False
    prefix: str = ""  # "+" or "++"


def parse(text: str, *, choices: Callable[[str], Sequence[str]] = lambda group: ()) -> Word:
    """One word as Hydra understands it; ValueError with a sentence if it cannot be understood.

    Args:
        text: What was typed.
        choices: The files of a group, for `variant=glob(*)`.
    """
    if not is_word(text):
        raise ValueError("is not of the form key=value.")
    override = _override(text)
    if override is None:
        key = key_of(text)
        raise ValueError(
            f"cannot be read. Text with brackets, quotes or commas goes in quotes inside quotes: "
            f"'{key}=\"...\"'; a list is {key}=[a,b], a sweep {key}=a,b or '{key}=range(0,5)'."
        )
    if override.is_delete():
        raise ValueError("takes a key away: set it to null instead, or choose another file of its group.")
    if override.is_interval_sweep():
        raise ValueError("is no list of values: write them out, or use range(from,to,step).")
    elements = _elements(override, choices)
    swept = override.is_sweep_override()
    first = Override._get_value_element_as_str(elements[0]) if swept and elements else None
    return Word(
        text=text,
        key=override.key_or_group + (f"@{override.package}" if override.package else ""),
        values=tuple(Override._convert_value(element) for element in elements),
        spelling=text.partition("=")[2] if first is None else first,
        swept=swept,
        prefix="+" * (override.is_add() + 2 * override.is_force_add()),
    )


def is_word(text: str) -> bool:
    """Whether this is meant as key=value, not as a flag."""
    return text.startswith("~") or _WORD.fullmatch(text) is not None


def key_of(text: str) -> str:
    """The key of a word, whether or not its value can be read."""
    found = _WORD.fullmatch(text)
    return found.group(1) if found else text


def literal(text: str) -> str:
    """The word with its value quoted, for a regex or a path that Hydra's grammar would take apart."""
    key, _, value = text.partition("=")
    return f"{key}={QuotedString(value, quote=Quote.double).with_quotes()}"


def _override(text: str) -> Override | None:
    try:
        return _parser.parse_override(text)
    except HydraException:
        return None


def _elements(override: Override, choices: Callable[[str], Sequence[str]]) -> list[Any]:
    value = override._value  # with its quotes, where there are any
    if isinstance(value, Glob):
        return list(value.filter(list(choices(override.key_or_group))))
    return list(override.sweep_iterator()) if override.is_sweep_override() else [value]


def effective(below: Sequence[Word], above: Sequence[Word]) -> list[Word]:
    """One word per key, those of `above` in place of those of `below`."""
    return list(({word.key: word for word in below} | {word.key: word for word in above}).values())


def as_text(word: str) -> str:
    """The word with quotes around what Hydra's grammar takes for numbers and truth values: 007, 1e3, true."""
    key, _, value = word.partition("=")
    return f"{key}={_quoted(value)}"


def _quoted(value: str) -> str:
    return ",".join(_quoted_part(part.strip()) for part in _parts(value))


def _quoted_part(part: str) -> str:
    if part[:1] == "[" and part[-1:] == "]":
        return f"[{_quoted(part[1:-1])}]"
    if part[:1] == "{" and part[-1:] == "}":
        pairs = (pair.partition(":") for pair in _parts(part[1:-1]))
        texts = (f"{name}{colon}{_quoted_part(text.strip())}" for name, colon, text in pairs)
        return "{" + ",".join(texts) + "}"
    if part.startswith("choice(") and part.endswith(")"):
        return f"choice({_quoted(part[7:-1])})"
    override = _override(f"key={part}")
    bare = override is not None and isinstance(override.value(), int | float)
    return QuotedString(part, quote=Quote.double).with_quotes() if bare else part


def _parts(value: str) -> list[str]:
    """A value cut at its commas, but not at those inside quotes and brackets."""
    parts, depth, quote, start = [], 0, "", 0
    for i, sign in enumerate(value):
        if quote:
            quote = "" if sign == quote and value[i - 1] != "\\" else quote
        elif sign in "\"'":
            quote = sign
        elif sign == "," and not depth:
            parts.append(value[start:i])
            start = i + 1
        depth += (sign in "([{") - (sign in ")]}") if not quote else 0
    return [*parts, value[start:]]


def tidied(words: Sequence[str], *, takes_text: Callable[[str], bool] = lambda key: False) -> list[str]:
    """The same words in the spelling that Hydra wants.

    Args:
        words: What was typed.
        takes_text: Whether what is typed for a key is a text, also if it looks like a number.
    """
    result = []
    for text in words:
        bare = text.lstrip("+")
        prefix = "+" if key_of(bare) == "experiment" else "++" if key_of(bare).startswith(_OPEN) else ""
        text = f"{prefix}{bare}"
        if _WORD.fullmatch(text) and _override(text) is None:
            text = literal(text)  # a regex, or a file name with brackets
        elif takes_text(key_of(bare)):
            text = as_text(text)
        result.append(text)
    given = {key_of(text): text for text in result}
    for key, other in (("train.epochs", "train.steps"), ("train.steps", "train.epochs")):
        if key in given and other not in given and not given[key].endswith("=null"):
            result.append(f"{other}=null")  # the requested length replaces the configured one
    return result
