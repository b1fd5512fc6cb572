"""What makes two runs comparable: the names of cells, peers and stacks, and the command that repeats a run.

cell     everything but the seed: runs of one cell differ by chance alone
peers    cells that differ only in what defines a variant (its parts, options and tuned rates)
stack    code, package versions, hardware and data that produced a result; results of two are not pooled
"""

import hashlib
import json
import math
import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

_NOT_CELL = ("seed", "study", "tracker", "phase", "signatures", "repeat", "tuned", "matched", "halving",
             "train.threads")  # fmt: skip
_OF_VARIANT = ("variant", "method", "variant_axes", "variant_options", "lr", "train.head_lr", "r", "alpha",
               "targets")  # fmt: skip
_GROUPS = {
    "variant_axes": "variant",
    "variant_options": "variant",
    "model_options": "model",
    "dataset_options": "dataset",
    "train": "train",
}
_RATE_OF_NOTHING = re.compile(r"(train\.head_)?lr=0(\.0)?$")  # of a method that trains nothing
_SHORT = ("variant", "r", "alpha", "targets", "model", "dataset", "lr", "seed", "study")


def text(value: Any) -> str:
    """A spec value as people write it: lists joined, whole floats without a point."""
    if isinstance(value, list | tuple):
        return ",".join(map(text, value))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def model(spec: Mapping[str, Any]) -> str:
    """The model's name as people know it."""
    options = spec.get("model_options") or {}
    return str(options.get("name") or options.get("path") or spec["model"])


def dataset(spec: Mapping[str, Any]) -> str:
    """The data's name as people know it: two csv files are two datasets."""
    options = spec.get("dataset_options") or {}
    name, path = spec["dataset"], options.get("path")
    return f"{name}:{str(path).rsplit('/', 1)[-1]}" if path else str(name)


def first_rank(spec: Mapping[str, Any]) -> int | None:
    """The rank at which the run starts, which is the one that scales: a method that prunes starts above r."""
    ratio = float((spec.get("variant_options") or {}).get("init_r_ratio") or 1)
    return math.ceil(spec["r"] * ratio) if spec.get("r") else None


def scale(spec: Mapping[str, Any]) -> float | None:
    """The s of s BA that the run used, or None where there is no such thing."""
    rule, r, alpha = (spec.get("variant_axes") or {}).get("scaling"), first_rank(spec), spec.get("alpha")
    if not r or alpha is None:
        return None
    return {"alpha_over_r": alpha / r, "alpha_over_sqrt_r": alpha / math.sqrt(r)}.get(rule or "")


def scaled_rank(spec: Mapping[str, Any]) -> float | None:
    """s r, by whose square root the best learning rate falls; None where there is no s."""
    s, r = scale(spec), first_rank(spec)
    return None if s is None or r is None else s * r


def flat(spec: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The spec with dotted keys; lists become text."""
    out: dict[str, Any] = {}
    for key, value in spec.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = text(value) if isinstance(value, list | tuple) else value
    return out


def digest(*parts: Any) -> str:
    """A hash of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def spec_key(spec: Mapping[str, Any]) -> str:
    """A hash of everything in a spec but the seed."""
    return digest(without(spec, _NOT_CELL))


def cell_key(content: Mapping[str, Any]) -> str:
    """A readable name with a hash of everything but the seed (and of the metric that judges)."""
    spec = content["spec"]
    parts = [
        spec["variant"],
        f"r{spec['r']}" if "r" in spec else "",
        text(spec.get("targets", "")),
        spec["dataset"],
    ]
    readable = "-".join(str(part).replace("/", "_") for part in parts if part)[:60]
    return f"{readable}-{digest(without(spec, _NOT_CELL), content.get('primary'))[:8]}"


def joint_key(series: str, cell: Mapping[str, Any], keys: Sequence[str]) -> str:
    """A readable name for several cells taken together, over their ranks."""
    parts = (series, "rall", cell["targets"], cell["dataset"])
    return f"{'-'.join(str(part).replace('/', '_') for part in parts)[:60]}-{digest(sorted(keys))[:8]}"


def tuned(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of a spec between whose values tuning chooses: what it says, or the learning rate."""
    return tuple(spec.get("tuned") or ("lr",))


def follows_rate(specs: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether another key than the learning rate has its value in each of these flat specs."""
    return key != "lr" and all(spec.get(key) == spec.get("lr") for spec in specs)


def group_key(content: Mapping[str, Any], tuned: Sequence[str]) -> str:
    """The same for cells that differ in the tuned keys alone, between which tuning chooses."""
    return digest(without(content["spec"], (*_NOT_CELL, *tuned)), content.get("primary"))[:12]


def curve_key(content: Mapping[str, Any], tuned: Sequence[str]) -> str:
    """The same for cells of one variant that differ in the rank and in what is tuned alone."""
    return group_key(content, ("r", *tuned))


def peer_key(content: Mapping[str, Any], tuned: Sequence[str]) -> str:
    """The same for cells that may be compared as variants: all that a variant does not bring is equal.

    What was tuned is part of what a variant brings.
    """
    return group_key(content, (*_OF_VARIANT, *tuned))


def length(spec: Mapping[str, Any]) -> float | None:
    """How long a run trains, in steps, or in epochs where it says no steps."""
    train = spec.get("train") or {}
    return train.get("steps") or train.get("epochs")


def rung(content: Mapping[str, Any]) -> float | None:
    """The length (steps or epochs) of a tuning run after which points were dropped, None for other runs."""
    halved = content["spec"].get("halving") and content.get("phase") == "tune"
    return length(content["spec"]) if halved else None


def without(spec: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The spec without some dotted keys."""
    out = dict(spec)
    for key in keys:
        part, _, last = key.rpartition(".")
        if not part:
            out.pop(key, None)
        elif isinstance(out.get(part), Mapping):
            out[part] = {name: value for name, value in out[part].items() if name != last}
    return out


def tuned_in(contents: Collection[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """The tuned keys of each run of a study, by run_id.

    A run that says nothing of tuning, but would be of a group that was tuned, is of that group.
    """
    said = [content for content in contents if content["spec"].get("tuned")]
    groups, by_variant = set(), defaultdict[str, set[tuple[str, ...]]](set)
    for content in said:
        keys = tuned(content["spec"])
        groups.add((keys, group_key(content, keys)))
        by_variant[content["spec"]["variant"]].add(keys)
    out = {}
    for content in contents:
        spec = content["spec"]
        options = [] if spec.get("tuned") else sorted(by_variant[spec["variant"]])
        fits = (keys for keys in options if (keys, group_key(content, keys)) in groups)
        out[content["run_id"]] = next(fits, tuned(spec))
    return out


def stack(content: Mapping[str, Any]) -> str:
    """A short hash of code, versions, hardware and data."""
    return digest(stack_parts(content))[:8]


def stack_parts(content: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a stack by name, for saying in which of them two runs differ."""
    env, data = content.get("env") or {}, content.get("data") or {}
    code = env.get("code_sha256") or env.get("git_sha")
    parts = {"code": code, "device": env.get("device")}
    parts |= {f"{name} version": version for name, version in (env.get("versions") or {}).items()}
    return parts | {
        key.replace("_sha256", " data"): value for key, value in data.items() if key.endswith("_sha256")
    }


def command(content: Mapping[str, Any], *, without: Collection[str] = (), **other: Any) -> str:
    """The command that reproduces a run: the one in its record, else every key spelled out.

    Empty for a run of somebody else, which no command of ours repeats.

    Args:
        content: the record of the run.
        without: dotted keys of the spec that are left to their defaults.
        other: values of short keys in place of the run's; a sequence is a sweep, e.g. seed=(0, 1, 2).
    """
    if "source" in content:
        return ""
    words = shlex.split(content["command"])[2:] if "command" in content else _spelled(content["spec"])
    keyed = {word.partition("=")[0]: word for word in words}
    for key in without:
        keyed.pop(command_key(key), None)
    sweeps = {key for key, value in other.items() if isinstance(value, list | tuple)}
    for key, value in other.items():
        keyed[key] = f"{key}={','.join(map(value_text, value)) if key in sweeps else value_text(value)}"
    return f"python run.py {'-m ' if sweeps else ''}{shlex.join(keyed.values())}".rstrip()


def command_key(key: str) -> str:
    """A dotted key of a spec as the command line has it."""
    group, _, last = key.rpartition(".")
    return f"{_GROUPS.get(group, group)}.{last}" if group else key


def _spelled(spec: Mapping[str, Any]) -> list[str]:
    """All keys of a spec whose record is older than its command; what cannot be typed is left out."""
    words = [f"{key}={value_text(spec[key])}" for key in _SHORT if key in spec]
    words += [
        f"{group}.{key}={value_text(value)}"
        for part, group in _GROUPS.items()
        for key, value in (spec.get(part) or {}).items()
    ]
    return [
        word for word in words if not word.startswith("model.content=") and not _RATE_OF_NOTHING.match(word)
    ]


def value_text(value: Any) -> str:
    """A value in the grammar of the command line: text that the grammar could misread is quoted."""
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(value_text, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{value_text(v)}" for key, v in value.items()) + "}"
    plain = text(value) if not isinstance(value, float) else repr(value)
    if isinstance(value, str) and not all(c.isalnum() or c in "_-./:+%" for c in value):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return plain
