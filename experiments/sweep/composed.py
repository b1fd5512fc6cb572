"""What Hydra composed, as specs: the cells of a command for the sweeper, one cell for other launchers."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import page
from experiments.conf import Conf, leaves
from experiments.errors import UserError
from experiments.spec import RunSpec
from experiments.sweep.grid import Compose, Composed, Plain, expand
from experiments.sweep.ranks import dimensions
from experiments.words import effective, parse


class Interpolated:
    """A configuration in which values follow others, as alpha=${r}: each cell is resolved by itself."""

    def __init__(self, config: DictConfig):
        self.config = config

    def cell(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration resolved with these values in it."""
        config = copy.deepcopy(self.config)
        for key, value in values.items():
            OmegaConf.update(config, key, value, merge=False)
        return _plain(config)


def cells(
    arguments: Sequence[str], params: Mapping[str, Any], *, master: DictConfig, loader: ConfigLoader
) -> tuple[list[RunSpec], list[list[str]]]:
    """Every cell of a command and the words that make it; UserError if anything is wrong with any of them.

    Args:
        arguments: The words of the command, Hydra's own left out.
        params: What an experiment sweeps; the command's words go before it.
        master: The configuration that Hydra composed for the command.
        loader: Hydra's.
    """
    conf = conf_of(master.hydra)
    given = [parse(text, choices=conf.choices) for text in arguments]
    below = [parse(f"{key}={value}", choices=conf.choices) for key, value in params.items()]
    words = effective(below, given)
    groups = [word for word in words if word.key in conf.defaults()]
    swept = [word for word in words if word.swept or word in groups]
    fixed = [word for word in words if word not in swept]
    compose = _composer(master, loader, fixed=[w.text for w in fixed], groups=[w.key for w in groups])
    try:
        specs, problems = expand(
            swept, conf, choices=_files(master.hydra, conf), compose=compose, dimensions=dimensions
        )
    except OmegaConfBaseException as error:  # a reference to what is not there
        specs, problems = [], [str(error).splitlines()[0]]
    if problems:
        raise UserError(page(problems))
    spellings = itertools.product(*([f"{w.prefix}{w.key}={s}" for s in w.spellings] for w in swept))
    return specs, [[word.text for word in fixed] + list(row) for row in spellings]


def spec_of(config: DictConfig, hydra: DictConfig) -> RunSpec:
    """The one run that a composed configuration asks for, told Hydra's own part of it."""
    conf = conf_of(hydra)
    composed = Plain(_plain(config))
    specs, problems = expand(
        [], conf, choices=_files(hydra, conf), compose=lambda _: composed, dimensions=dimensions
    )
    if problems:
        raise UserError(page(problems))
    return specs[0]


def _composer(
    master: DictConfig, loader: ConfigLoader, *, fixed: Sequence[str], groups: Sequence[str]
) -> Compose:
    def compose(files: Mapping[str, str]) -> Composed:
        words = [*fixed, *(f"{group}={files[group]}" for group in groups)]
        config = loader.load_sweep_config(master, words)
        task = without_hydra(config)
        unresolved: Any = OmegaConf.to_container(task, resolve=False)
        if any("${" in str(value) for _, value in leaves(unresolved)):
            return Interpolated(task)
        return Plain(unresolved)

    return compose


def conf_of(hydra: DictConfig) -> Conf:
    """The folders that Hydra read, those added by --config-dir last."""
    sources = [source for source in hydra.runtime.config_sources if source.schema == "file"]
    return Conf(*(Path(source.path) for source in sources))


def _files(hydra: DictConfig, conf: Conf) -> dict[str, str]:
    """The file chosen in each group."""
    return {group: str(hydra.runtime.choices[group]) for group in conf.defaults()}


def without_hydra(config: DictConfig) -> DictConfig:
    """A configuration without Hydra's own part."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _plain(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(without_hydra(config), resolve=True)  # type: ignore[return-value]
