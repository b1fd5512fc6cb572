"""The command that reproduces a run: what differs from the defaults, in words that the command line reads."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from experiments.config.groups import CONF, Conf
from experiments.config.overrides import parse
from experiments.config.resolve import resolve
from experiments.sizing.counts import own_rate
from experiments.spec import RunSpec


def command_of(spec: RunSpec) -> str:
    """The command, short: `python run.py variant=dora r=4 seed=1 study=demo`.

    It requests the run by itself, whatever part it had in a sweep: without its tracker, as no run of tuning,
    at the rank that was matched. What neither the configuration beside this code nor the spec's folders know
    is spelled out in full.
    """
    return shlex.join(["python", "run.py", *_flags(spec), *words_of(spec, _own(spec.config_dirs))])


def _flags(spec: RunSpec) -> list[str]:
    """What has the command line read the folders that the run's command added."""
    if len(spec.config_dirs) < 2:
        return [f"--config-dir={folder}" for folder in spec.config_dirs]
    return [_word("hydra.searchpath", [f"file://{folder}" for folder in spec.config_dirs])]


def words_of(spec: RunSpec, conf: Conf) -> list[str]:
    """The words behind the name of the program."""
    known = conf.defaults()
    chosen = {"variant": spec.variant, "model": spec.model, "dataset": _dataset(spec, conf)}
    words = [_word(group, file) for group, file in chosen.items() if file != known[group]]
    there = {group: file for group, file in chosen.items() if file in conf.choices(group)}
    config, choices = conf.compose({**known, **there}), {**known, **chosen}
    plain = resolve(config, choices=choices)
    plain = replace(plain, lr=own_rate(spec, float(config["variant"]["lr"])))
    given: dict[str, Any] = {"train": {**config["train"], "precision": spec.train.precision}}
    if spec.lr != plain.lr:
        given["lr"] = spec.lr  # which a head without a rate of its own follows
    follows = resolve(config | given, choices=choices)
    words += [_word(key, value) for key, value in _differing(spec, plain, follows)]
    if spec.repeat:
        words = [word for word in words if not word.startswith("seed=")]
        words += [f"seed={','.join([str(spec.seed)] * (spec.repeat + 1))}", "repeat=true"]
    return words


def _differing(spec: RunSpec, plain: RunSpec, follows: RunSpec) -> Iterator[tuple[str, Any]]:
    """The keys in which a run differs from what its files say.

    Args:
        spec: The run.
        plain: What its files say.
        follows: The same with its rate and precision, which other values follow.
    """
    for key in ("r", "alpha", "targets", "lr"):
        value = getattr(spec, key)
        if value is not None and value != getattr(plain, key):
            yield key, value
    parts = (
        ("variant", spec.axes, follows.axes),
        ("variant", spec.options, plain.options),
        ("model", spec.model_options, plain.model_options),
        ("dataset", spec.dataset_options, plain.dataset_options),
        ("train", vars(spec.train), vars(plain.train) | {"head_lr": follows.train.head_lr}),
    )
    for group, own, other in parts:
        for key in {**own, **other}:
            implied = key == "content" or (key == "steps" and own.get(key) is None)
            if own.get(key) != other.get(key) and not implied:
                yield f"{group}.{key}", own.get(key)
    for key in ("seed", "study", "signatures"):
        if getattr(spec, key) != getattr(plain, key):
            yield key, getattr(spec, key)


@cache
def _own(added: tuple[str, ...]) -> Conf:
    return Conf(CONF, *(Path(folder) for folder in added if Path(folder).is_dir()))


def _dataset(spec: RunSpec, conf: Conf) -> str:
    """The file of a dataset: mostly, but not always, of its name."""
    files = conf.choices("dataset")
    if spec.dataset in files:
        return spec.dataset
    return next((file for file in files if conf.read("dataset", file)["name"] == spec.dataset), spec.dataset)


def _word(key: str, value: Any) -> str:
    return f"{key}={_spelled(value)}"


def _spelled(value: Any) -> str:
    """A value in the grammar of the command line; text that it would read otherwise is quoted."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_spelled, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_spelled(v)}" for key, v in value.items()) + "}"
    if not isinstance(value, str):
        return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
    try:
        read = parse(f"key={value}")
    except ValueError:
        read = None
    if read is not None and not read.swept and read.values == (value,):
        return value
    return QuotedString(value, quote=Quote.double).with_quotes()
