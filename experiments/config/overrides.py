"""The words of a command, `key=value`, read with Hydra's own grammar."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString, Transformer
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
    spellings: tuple[str, ...]  # the values as Hydra's grammar writes them
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
    return Word(
        text=text,
        key=override.key_or_group + (f"@{override.package}" if override.package else ""),
        values=tuple(_plain(element) for element in elements),
        spellings=tuple(Transformer.str(element) for element in elements),
        swept=override.is_sweep_override(),
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
    value = override.value()
    if isinstance(value, Glob):
        return list(value.filter(list(choices(override.key_or_group))))
    return list(override.sweep_iterator()) if override.is_sweep_override() else [value]


def _plain(element: Any) -> Any:
    if isinstance(element, QuotedString):
        return element.text
    if isinstance(element, list):
        return [_plain(e) for e in element]
    return element


def effective(below: Sequence[Word], above: Sequence[Word]) -> list[Word]:
    """One word per key, those of `above` in place of those of `below`."""
    return list(({word.key: word for word in below} | {word.key: word for word in above}).values())


def tidied(words: Sequence[str]) -> list[str]:
    """The same words in the spelling that Hydra wants."""
    result = []
    for text in words:
        bare = text.lstrip("+")
        prefix = "+" if key_of(bare) == "experiment" else "++" if key_of(bare).startswith(_OPEN) else ""
        text = f"{prefix}{bare}"
        if _WORD.fullmatch(text) and _override(text) is None:
            text = literal(text)  # a regex, or a file name with brackets: meant as it stands
        result.append(text)
    given = {key_of(text): text for text in result}
    for key, other in (("train.epochs", "train.steps"), ("train.steps", "train.epochs")):
        if key in given and other not in given and not given[key].endswith("=null"):
            result.append(f"{other}=null")  # the length that was asked for puts the configured one aside
    return result
