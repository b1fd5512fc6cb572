"""The parts that variants are composed of, filed under (axis, name) and found by listing this folder.

A part files itself with a decorator, `@register("delta", "lora")`, in a module of this package whose name has
no leading underscore. Nothing else names it: a new file is found because it exists.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

AXES = ("method", "delta", "scaling", "storage", "grouping", "controller")

_parts: dict[tuple[str, str], Any] = {}
_reads: dict[tuple[str, str], tuple[str, ...]] = {}
Part = TypeVar("Part")


class UnknownPart(LookupError):
    """A name that no part of this axis bears."""


def register(axis: str, name: str, *, reads: tuple[str, ...] = ()) -> Callable[[Part], Part]:
    """Decorator: file a part under (axis, name).

    A second part of the same name is an error, never an overwrite. `reads` names the options that a storage
    depends on: runs that agree in them can share a base.
    """
    _check_axis(axis)

    def add(part: Part) -> Part:
        first = _parts.setdefault((axis, name), part)
        if first is not part:
            raise ValueError(
                f"{axis} {name!r} is defined in {first.__module__} and again in {part.__module__}"
            )
        _reads[axis, name] = reads
        return part

    return add


def get(axis: str, name: str) -> Any:
    """The part filed under (axis, name)."""
    known = names(axis)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownPart(
            f"no {axis} named {name!r}.{hint} Known: {', '.join(known)}. "
            f"To add one, write variants/<file>.py with @register({axis!r}, {name!r})."
        )
    return _parts[axis, name]


def reads(axis: str, name: str) -> tuple[str, ...]:
    """The options that a part said it depends on."""
    get(axis, name)
    return _reads[axis, name]


def names(axis: str) -> list[str]:
    """Every name of an axis, sorted."""
    _check_axis(axis)
    _discover()
    return sorted(name for filed, name in _parts if filed == axis)


def _check_axis(axis: str) -> None:
    if axis not in AXES:
        raise ValueError(f"no axis named {axis!r}. The axes are {', '.join(AXES)}.")


@cache
def _discover() -> None:
    """Import every public module of this package. One broken file fails them all, on purpose."""
    for module in pkgutil.iter_modules(importlib.import_module("variants").__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"variants.{module.name}")
    for core in ("adapters", "storage"):
        importlib.import_module(f"variants._core.{core}")
