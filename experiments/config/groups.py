"""conf/ as data: its groups, the files of each, and the keys that a command may set, with their types.

Read as plain YAML in milliseconds: `compose` gives what Hydra would, which takes it 70 ms each time. A file
that says more than is understood here is refused, so that the two never differ.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import yaml

from experiments.config.schema import Key
from experiments.config.settings import AXES, DEFAULTS, FACTS, Config, Train
from experiments.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"  # of ablora itself
REQUIRED = ("method", "lr", "head_lr")  # of a variant's file
_PACKAGE = re.compile(r"^#\s*@package\s+(\S+)", re.MULTILINE)
TEXTS = ("text", "texts", "study", "targets")  # kinds of keys that take a text
# keys with a kind of their own
SPECIAL = {"targets": "targets", "study": "study", "workers": "workers", "pack": "pack"}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as Hydra reads it: 5e-3 is a number, 2024-01-15 is a text, and no key occurs twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: the key {twice} is there twice")
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if not tag.endswith(":timestamp")]
    for first, forms in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


Derive = TypeVar("Derive", bound=Callable[..., Any])


def _once(derive: Derive) -> Derive:
    """A method of `Conf` that reads or derives once what it is asked for by texts."""

    @wraps(derive)
    def get(self: "Conf", *names: str) -> Any:
        key = (derive.__name__, *names)
        if key not in self._known:
            self._known[key] = derive(self, *names)
        return self._known[key]

    return get  # type: ignore[return-value]


class Conf:
    """The configuration folder, and after it those that a command adds with --config-dir."""

    def __init__(self, *folders: Path, name: str = "config"):
        self.folders, self.name = folders, name
        self._known: dict[tuple[str, ...], Any] = {}  # what was read or derived once

    @classmethod
    def of_hydra(cls, hydra: Any) -> "Conf":
        """The folders that Hydra read, by its own part of a configuration; those of --config-dir are last."""
        sources = (source for source in hydra.runtime.config_sources if source.schema == "file")
        return cls(*(Path(source.path) for source in sources), name=hydra.job.config_name)

    def added(self) -> tuple[str, ...]:
        """The folders that a command adds, as they were given."""
        return tuple(map(str, self.folders[1:]))

    def groups(self) -> list[str]:
        """The groups, `experiment` among them."""
        names = {path.name for folder in self.folders for path in folder.iterdir() if path.is_dir()}
        return sorted(name for name in names if name != "hydra" and name.isidentifier())

    @_once
    def choices(self, group: str) -> list[str]:
        """The files of a group; none if there is no such group."""
        found = {
            path.relative_to(folder / group).with_suffix("").as_posix()
            for folder in self.folders
            for path in (folder / group).rglob("*.yaml")
        }
        return sorted(found)

    @_once
    def read(self, group: str, choice: str) -> dict[str, Any]:
        """A file of a group with the files of its own defaults list under it."""
        content = self._read(f"{group}/{choice}")
        entries = content.pop("defaults", [])
        other = [entry for entry in entries if entry not in ("_self_", *self.choices(group))]
        if other:
            raise UserError(
                f"{self._path(f'{group}/{choice}')} builds on {other[0]!r}, which is no file of {group}: its "
                "defaults may name files beside it, as in defaults: [lora, _self_]"
            )
        result: dict[str, Any] = {}
        for entry in [*entries, *["_self_"] * ("_self_" not in entries)]:
            result = merged(result, content if entry == "_self_" else self.read(group, entry))
        missing = [key for key in REQUIRED if key not in result] if group == "variant" else []
        if missing:
            raise UserError(
                f"{self._path(f'{group}/{choice}')} has no {', '.join(missing)}. Start from a copy of "
                f"lora.yaml, or build on it with defaults: [lora, _self_]"
            )
        return result

    def about(self, group: str, choice: str) -> str:
        """The first paragraph of comment in a file: what it is."""
        lines = self._path(f"{group}/{choice}").read_text("utf-8").splitlines()
        lines = [line for line in lines if "@package" not in line]
        paragraph = itertools.takewhile(lambda line: line.startswith("#") and line.strip("# "), lines)
        return " ".join(line.strip("# ") for line in paragraph)

    def experiment(self, name: str) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        """What an experiment sets: files of groups, values, and what it sweeps."""
        content = self._read(f"experiment/{name}")
        params = (content.pop("hydra", None) or {}).get("sweeper", {}).get("params") or {}
        entries = content.pop("defaults", [])
        chosen = self._overridden(entries)
        if other := [entry for entry in entries if isinstance(entry, str) and entry != "_self_"]:
            raise UserError(
                f"{self._path(f'experiment/{name}')} builds on {other[0]!r}: an experiment chooses files, as "
                "in defaults: [override /model: hf, _self_], and is no part of another one"
            )
        return {group: file for group, file in chosen.items() if "/" not in group}, content, params

    def sweeper(self, experiment: str | None = None) -> tuple[str, dict[str, Any]]:
        """The sweeper, where a command names none, and what an experiment sets of it but what it sweeps."""
        content = self._read(f"experiment/{experiment}") if experiment else {}
        chosen = self._overridden([*self._read(self.name)["defaults"], *content.get("defaults", [])])
        settings = (content.get("hydra") or {}).get("sweeper") or {}
        return chosen["hydra/sweeper"], {key: v for key, v in settings.items() if key != "params"}

    def _overridden(self, defaults: list[Any]) -> dict[str, str]:
        """The files that a list of defaults names, by their group."""
        entries = [entry for entry in defaults if isinstance(entry, Mapping)]
        return {str(key).split()[-1].lstrip("/"): str(v) for entry in entries for key, v in entry.items()}

    def compose(
        self, choices: Mapping[str, str], *, values: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The configuration with these files chosen, `values` (of an experiment) over it."""
        primary = {
            key: value for key, value in self._read(self.name).items() if key not in ("defaults", "hydra")
        }
        groups = {g: self.read(g, choice) for g, choice in choices.items() if g != "experiment"}
        return merged(merged(primary, groups), values or {})

    def defaults(self) -> dict[str, str]:
        """The file of each group that is taken when a command names none."""
        entries = (e for e in self._read(self.name)["defaults"] if isinstance(e, dict))
        return {key: value for entry in entries for key, value in entry.items() if key in self.groups()}

    def short_keys(self) -> dict[str, Key]:
        """The keys without a dot that are no groups."""
        found = {}
        for f in fields(Config):
            if f.name in SPECIAL:
                found[f.name] = Key(f.name, SPECIAL[f.name], optional=f.default is None)
            elif f.name not in self.groups():
                found[f.name] = Key.of_annotation(f.name, f.type, f.metadata["allowed"])
        return found

    @_once
    def keys(self, group: str, choice: str) -> dict[str, Key]:
        """The keys that a file of a group has, by their dotted names."""
        if group == "train":
            return {
                f"train.{f.name}": Key.of_annotation(f"train.{f.name}", f.type, f.metadata["allowed"])
                for f in fields(Train)
            }
        content = self.read(group, choice)
        ranges = content.get("ranges", {})
        hidden = (
            (*FACTS, *DEFAULTS)
            if group == "variant"
            else ("name", "ranges")
            if group != "model" and content.get("name") is not None
            else ("ranges",)
        )
        return {
            key.name: key
            for key in (
                self._key(group, name, default, ranges.get(name))
                for name, default in content.items()
                if name not in hidden
            )
        }

    def _key(self, group: str, name: str, default: Any, allowed: Any) -> Key:
        dotted = f"{group}.{name}"
        if group == "variant" and name in AXES:
            return Key(dotted, "text", default is None, tuple(allowed or self.axis_values(name)))
        key = Key.of_default(dotted, None if default == "???" else default, allowed)
        return replace(key, kind="texts") if group == "dataset" and key.kind == "text" else key

    @_once
    def axis_values(self, axis: str) -> list[str]:
        """Every value of an axis that some variant names."""
        files = [self.read("variant", name) for name in self.choices("variant")]
        named = [content.get(axis) for content in files]
        allowed = [value for content in files for value in content.get("ranges", {}).get(axis, [])]
        return list(dict.fromkeys(value for value in (*allowed, *sorted(filter(None, named)))))

    def _path(self, name: str) -> Path:
        paths = [folder / f"{name}.yaml" for folder in self.folders]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            raise UserError(f"there is no {' nor '.join(map(str, paths))}")
        return found

    def takes_text(self, name: str) -> bool:
        """Whether a text may stand at a key in some file: then 007 and 1e3 are texts there."""
        group = name.partition(".")[0]
        schemas = [self.keys(group, file) for file in self.choices(group)] or [self.short_keys()]
        return any(schema[name].kind in TEXTS for schema in schemas if name in schema)

    def _read(self, name: str) -> dict[str, Any]:
        """The content of one file; the copy may be changed at its top."""
        return dict(self._load(name))

    @_once
    def _load(self, name: str) -> dict[str, Any]:
        path = self._path(name)
        text = path.read_text("utf-8")
        package = _PACKAGE.search(text)
        if package and (package[1] != "_global_" or not name.startswith("experiment/")):
            raise UserError(f"{path}: only experiments have a package directive, # @package _global_")
        try:
            return yaml.load(text, _Loader) or {}
        except yaml.YAMLError as error:
            raise UserError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, mappings merged key by key."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its dotted key."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
