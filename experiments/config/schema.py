"""One key of the configuration: what may stand there, and the sentence for what may not."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from experiments.errors import did_you_mean
from variants._core.names import PRESETS

_NOUNS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "text": "a text",
    "texts": "a text, or a list of texts",
    "study": "the name of a folder: letters, digits, dots, dashes and underscores",
    "workers": "auto or a whole number of at least 1",
    "pack": "auto, off or a whole number of at least 1",
    "targets": f"one of {', '.join(PRESETS)}, a list of module names such as [query,value], or re:<regex>",
}


@dataclass(frozen=True)
class Key:
    """What may stand at one dotted key.

    `allowed` is [from, to], None for open, ">0" for above, "<1" for below; any other list names the choices.
    """

    name: str
    kind: str
    optional: bool = False
    allowed: tuple[Any, ...] | None = None

    @classmethod
    def of_default(cls, name: str, default: Any, allowed: Sequence[Any] | None = None) -> "Key":
        """The key that a yaml shows by its default (null: a text, unless bounds say a number)."""
        bounds = tuple(allowed) if allowed is not None else None
        kinds = {bool: "bool", int: "int", float: "float"}
        kind = kinds.get(type(default), "text")
        if default is None and _is_interval(bounds):
            kind = "int" if all(type(b) in (int, type(None)) for b in bounds or ()) else "float"
        elif default is None and bounds and "auto" in bounds:
            kind = "switch"
        return cls(name, kind, default is None, bounds)

    @classmethod
    def of_annotation(cls, name: str, annotation: Any, allowed: Sequence[Any] | None = None) -> "Key":
        """The key that a dataclass field declares."""
        types = get_args(annotation) or (annotation,)
        kind = next(t.__name__ for t in types if t is not type(None)).replace("str", "text")
        return cls(name, kind, type(None) in types, tuple(allowed) if allowed is not None else None)

    def describe(self) -> str:
        """What may stand here, as the object of "takes"."""
        if self.allowed is not None and not _is_interval(self.allowed):
            noun = ("one of " if len(self.allowed) > 1 else "only ") + ", ".join(
                str(a) if isinstance(a, str) else _shown(a) for a in self.allowed
            )
        else:
            noun = _NOUNS[self.kind] + _limits(self.allowed)
        return noun + (", or null" if self.optional else "")

    def convert(self, value: Any) -> Any:
        """`value` as this key's type; ValueError with a sentence if it is not allowed here."""
        if (value is None and self.optional) or _is_interpolation(value):
            return value
        try:
            converted = _CONVERSIONS[self.kind](value)
        except (TypeError, ValueError, re.error) as error:
            raise ValueError(self._refusal(value, error)) from None
        if self.allowed is not None and converted is not None and not _within(converted, self.allowed):
            raise ValueError(self._refusal(value))
        return converted

    def _refusal(self, value: Any, error: Exception | None = None) -> str:
        hints = self.allowed if self.allowed is not None and not _is_interval(self.allowed) else ()
        if self.kind == "targets" and isinstance(value, str) and not value.startswith("re:"):
            hint = did_you_mean(value, PRESETS) or f" Did you mean targets=[{value}]?"
        else:
            hint = did_you_mean(str(value), map(str, hints))
        reason = f" ({error})" if isinstance(error, re.error) else ""
        return f"{self.name} takes {self.describe()}, not {_shown(value)}{reason}.{hint}"


def _int(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _float(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError
    return value


def _switch(value: Any) -> bool | None:
    """True or false; auto is null, so that a command that says it requests the same run."""
    return None if value == "auto" else _bool(value)


def _texts(value: Any) -> Any:
    """A text, or several: the files of a dataset."""
    if isinstance(value, list | tuple):
        return tuple(_text(v) for v in value)
    if isinstance(value, dict):
        return {str(k): _texts(v) for k, v in value.items()}
    return _text(value)


def _text(value: Any) -> str:
    """A text; a number is taken as its digits, the name of a column for instance."""
    if value is None or value == "" or isinstance(value, bool | list | tuple | dict):
        raise TypeError
    return str(value)


def _study(value: Any) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", str(value)):
        raise ValueError
    return str(value)


def _workers(value: Any) -> int | str:
    if value != "auto" and (type(value) is not int or value < 1):
        raise ValueError
    return value


def _pack(value: Any) -> int | str:
    if value is False:  # YAML's word for it
        return "off"
    if value not in ("auto", "off") and (type(value) is not int or value < 1):
        raise ValueError
    return value


def _targets(value: Any) -> str | tuple[str, ...]:
    """A preset or re:<regex> as it is; a list in one order, so that equal sets are equal."""
    if isinstance(value, list | tuple):
        if not value or not all(isinstance(name, str) and name for name in value):
            raise TypeError
        return tuple(sorted(set(value)))
    if not isinstance(value, str) or not (value in PRESETS or value.startswith("re:")) or value == "re:":
        raise ValueError
    re.compile(value.removeprefix("re:"))
    return value


_CONVERSIONS = {
    "int": _int,
    "float": _float,
    "bool": _bool,
    "switch": _switch,
    "text": _text,
    "texts": _texts,
    "study": _study,
    "workers": _workers,
    "targets": _targets,
    "pack": _pack,
}


def _is_interpolation(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _is_interval(allowed: Sequence[Any] | None) -> bool:
    if allowed is None or len(allowed) != 2:
        return False
    return all(b is None or type(b) in (int, float) or str(b)[:1] in "<>" for b in allowed)


def _within(value: Any, allowed: Sequence[Any]) -> bool:
    if not _is_interval(allowed):
        return value in allowed
    low, high = allowed
    above = low is None or (value > float(low[1:]) if isinstance(low, str) else value >= low)
    below = high is None or (value < float(high[1:]) if isinstance(high, str) else value <= high)
    return above and below


def _limits(allowed: Sequence[Any] | None) -> str:
    if allowed is None:
        return ""
    low, high = allowed
    lower = f"above {low[1:]}" if isinstance(low, str) else f"of at least {low}"
    upper = f"below {high[1:]}" if isinstance(high, str) else f"at most {high}"
    if low is None or high is None:
        return f" {lower}" if high is None else f" {upper}"
    return (
        f" from {low} to {high}"
        if not isinstance(low, str) and not isinstance(high, str)
        else f" {lower} and {upper}"
    )


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return repr(value) if value else "nothing"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return "[" + ",".join(map(str, value)) + "]" if isinstance(value, list | tuple) else str(value)
