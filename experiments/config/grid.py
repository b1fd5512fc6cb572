"""The product of a command's words as specs, every cell checked before the first one starts.

A configuration is composed once for each distinct choice of files; the other values are laid over it in plain
Python, because a composition costs Hydra 70 ms and a sweep may have 100,000 cells.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from omegaconf import OmegaConf

from experiments.config.groups import Conf
from experiments.config.overrides import Word
from experiments.config.resolve import check_composition, resolve
from experiments.config.schema import Key
from experiments.sizing.match import matched
from experiments.sizing.ranks import Dimensions, check_ranks
from experiments.sizing.skeleton import skeleton
from experiments.spec import RunSpec


class Composed(Protocol):
    """The configuration for one choice of files."""

    def cell(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """It as plain containers, with these values laid over it by their dotted keys."""


Compose = Callable[[Mapping[str, str]], Composed]


class Interpolated:
    """A configuration in which values follow others, as alpha=${r}: each cell is resolved by itself."""

    def __init__(self, config: Mapping[str, Any]):
        self._plain = Plain(config)

    def cell(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration resolved with these values in it."""
        config = OmegaConf.create(self._plain.cell(values))
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


class Plain:
    """A configuration without interpolations: a value laid over it changes nothing else."""

    def __init__(self, config: Mapping[str, Any]):
        self.config = dict(config)

    def cell(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A copy along the changed paths; the rest is shared between cells."""
        result = dict(self.config)
        for key, value in values.items():
            _place(result, key.split("."), value)
        return result


def expand(
    words: Iterable[Word],
    conf: Conf,
    *,
    choices: Mapping[str, str],
    compose: Compose,
    dimensions: Dimensions | None = None,
    rows: Iterable[tuple[int, ...]] | None = None,
) -> tuple[list[RunSpec], list[str]]:
    """Every cell of the product, in the order of the words, the last one changing fastest.

    Args:
        words: What to lay over the composed configurations; keys and files that there are.
        conf: The types of the keys.
        choices: The file of each group that no word chooses.
        compose: Gives the configuration for a choice of files.
        dimensions: Facts on the model of a spec, if it is here; no rank may be above its smallest layer.
        rows: Which cells, by the number of each word's value; None for the product.

    Returns:
        The specs, equal ones included (numbered where `repeat` is set), and what is wrong with them, a
        sentence per problem.
    """
    words = list(words)
    groups = {i: word.key for i, word in enumerate(words) if word.key in choices}
    parts: dict[tuple[int, ...], _Part] = {}
    specs: list[RunSpec] = []
    problems: dict[str, None] = {}
    match = None
    again: Counter[RunSpec] = Counter()
    product = itertools.product(*(range(len(word.values)) for word in words))
    for index in product if rows is None else rows:
        chosen = tuple(index[i] for i in groups)
        if chosen not in parts:
            files = {key: str(words[i].values[index[i]]) for i, key in groups.items()}
            parts[chosen] = _Part(words, {**choices, **files}, conf=conf, compose=compose)
        config, wrong = parts[chosen].cell(index)
        match = match or config.get("match")
        wrong = wrong or check_composition(config, choices=parts[chosen].choices)
        if wrong:
            problems.update(dict.fromkeys(wrong))
        else:
            spec = resolve(config, choices=parts[chosen].choices, config_dirs=conf.added())
            if config["repeat"]:
                again[spec] += 1
                spec = replace(spec, repeat=again[spec] - 1)
            specs.append(spec)
    if match is not None and not problems:
        among = specs if rows is None else expand(words, conf, choices=choices, compose=compose)[0]
        specs, wrong = matched(specs, match, skeletons=skeleton, among=among)
        problems.update(dict.fromkeys(wrong))
    if dimensions is not None:
        problems.update(dict.fromkeys(check_ranks(specs, dimensions)))
    return specs, list(problems)


class _Part:
    """The cells of one choice of files: their configuration, and the words' values as its keys take them."""

    def __init__(self, words: Sequence[Word], choices: Mapping[str, str], *, conf: Conf, compose: Compose):
        self.choices = dict(choices)
        self._keys = dict(conf.short_keys())
        for group, choice in choices.items():
            self._keys.update(conf.keys(group, choice))
        self._problems: list[str] = []
        self._columns = [
            (i, word.key, [self._convert(self._keys[word.key], value) for value in word.values])
            for i, word in enumerate(words)
            if word.key not in choices
        ]
        self._composed = compose(choices)
        self._settled = isinstance(self._composed, Plain)
        if self._settled:
            config, wrong = _typed(self._composed.cell({}), self._keys)
            self._problems += wrong
            self._composed = Plain(config)

    def cell(self, index: Sequence[int]) -> tuple[dict[str, Any], list[str]]:
        """One cell's configuration and what is wrong with its values."""
        if self._problems:
            return {}, self._problems
        config = self._composed.cell({key: values[index[i]] for i, key, values in self._columns})
        return (config, []) if self._settled else _typed(config, self._keys)

    def _convert(self, key: Key, value: Any) -> Any:
        try:
            return key.convert(value)
        except ValueError as error:
            self._problems.append(str(error))
            return None


def _typed(config: Mapping[str, Any], keys: Mapping[str, Key]) -> tuple[dict[str, Any], list[str]]:
    """A configuration with each value as its key's type, and what could not be."""
    result, problems = dict(config), []
    for name, key in keys.items():
        *path, last = name.split(".")
        inner = config
        for part in path:
            inner = inner[part]
        try:
            _place(result, [*path, last], key.convert(inner[last]))
        except ValueError as error:
            problems.append(str(error))
    return result, problems


def _place(config: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value in nested dicts, copying the inner ones, which other cells may share."""
    head, *rest = path
    if rest:
        inner = dict(config[head])
        _place(inner, rest, value)
        config[head] = inner
    else:
        config[head] = value
