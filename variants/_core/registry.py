"""The parts that variants are composed of, filed under (axis, name) and found by listing this folder.

A part files itself with a decorator, `@register("delta", "lora")`, in a module of this package whose name has
no leading underscore, or in a folder that the environment variable ABLORA_VARIANTS names. Nothing else names
it: a new file is found because it exists. A part that is asked for by name loads its own file alone.
"""

import ast
import difflib
import importlib
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

AXES = ("method", "delta", "init", "scaling", "storage", "grouping", "gradient", "controller")

_parts: dict[tuple[str, str], Any] = {}
_reads: dict[tuple[str, str], tuple[str, ...]] = {}
_DECORATOR = re.compile(r"""^@register\(\s*["'](\w+)["'],\s*["'](\w+)["']""", re.MULTILINE)
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
    if (axis, name) not in _parts and (axis, name) in _index():
        importlib.import_module(_index()[axis, name])
    if (axis, name) not in _parts and name not in (known := names(axis)):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownPart(
            f"no {axis} named {name!r}.{hint} Known: {', '.join(known)}. "
            f"To add one, write variants/<file>.py with @register({axis!r}, {name!r}), or put the file into "
            "a folder of your own and name that in ABLORA_VARIANTS."
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


def declared(axis: str, name: str) -> dict[str, Any] | None:
    """The literal attributes of a part's class, read from its source without loading it.

    None where only the class itself can tell: it is defined in another way than by a decorator with literal
    names, it inherits from more than `Delta` or `Init`, or it works out its rank or sizes itself.
    """
    module = _index().get((axis, name))
    if module is None:
        return None
    for node in ast.parse(_sources()[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and any(_files(d, axis, name) for d in node.decorator_list):
            own = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            if [ast.unparse(base) for base in node.bases] not in (["Delta"], ["Init"]) or own & {
                "initial_rank",
                "sizes",
            }:
                return None
            return _literals(node)
    return None


def _files(decorator: ast.expr, axis: str, name: str) -> bool:
    if not isinstance(decorator, ast.Call):
        return False
    return [arg.value for arg in decorator.args if isinstance(arg, ast.Constant)] == [axis, name]


def _literals(node: ast.ClassDef) -> dict[str, Any]:
    found = {}
    for item in node.body:
        if not isinstance(item, ast.Assign | ast.AnnAssign) or item.value is None:
            continue
        target = item.target if isinstance(item, ast.AnnAssign) else item.targets[0]
        if isinstance(target, ast.Name):
            try:
                found[target.id] = ast.literal_eval(item.value)
            except ValueError:
                continue  # worked out, not declared
    return found


def _check_axis(axis: str) -> None:
    if axis not in AXES:
        raise ValueError(f"no axis named {axis!r}. The axes are {', '.join(AXES)}.")


@cache
def _sources() -> dict[str, Path]:
    """The files that may hold parts, by the name of their module."""
    found = {f"variants._core.{p.stem}": p for p in sorted(Path(__file__).parent.glob("*.py"))}
    for folder in importlib.import_module("variants").__path__:
        for path in sorted(Path(folder).glob("*.py")):
            if path.name.startswith("_"):
                continue
            first = found.setdefault(f"variants.{path.stem}", path)
            if first != path:
                raise ValueError(f"{path} bears the name of {first}: give it another.")
    return found


@cache
def _index() -> dict[tuple[str, str], str]:
    """Module by axis and name, of parts whose decorators say both."""
    texts = ((module, path.read_text(encoding="utf-8")) for module, path in _sources().items())
    return {(axis, name): module for module, text in texts for axis, name in _DECORATOR.findall(text)}


@cache
def _discover() -> None:
    """Import every module that may hold parts. One broken file fails them all, on purpose."""
    for module in _sources():
        importlib.import_module(module)
