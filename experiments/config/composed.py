"""What Hydra composed, as specs: the cells of a command for the sweeper, one cell for other launchers."""

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config.command import page, prepare
from experiments.config.grid import Compose, Composed, Plain, expand
from experiments.config.groups import Conf, leaves
from experiments.config.messages import no_key
from experiments.config.overrides import Word, effective, is_word, parse
from experiments.config.schema import Key
from experiments.errors import UserError
from experiments.sizing.ranks import dimensions
from experiments.spec import RunSpec, register


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


class Command:
    """The words of a command over what Hydra composed for it; UserError where they cannot be read.

    Args:
        arguments: The words of the command, Hydra's own left out.
        params: What an experiment sweeps; the command's words go before it.
        master: The configuration that Hydra composed for the command.
        loader: Hydra's.
    """

    def __init__(
        self, arguments: Sequence[str], params: Mapping[str, Any], *, master: DictConfig, loader: ConfigLoader
    ):
        self._conf = conf_of(master.hydra)
        given = [parse(text, choices=self._conf.choices) for text in arguments]
        below = [parse(f"{key}={value}", choices=self._conf.choices) for key, value in params.items()]
        self.words = effective(below, given)
        self._files = _files(master.hydra, self._conf)
        groups = [word for word in self.words if word.key in self._conf.defaults()]
        self._swept = [word for word in self.words if word.swept or word in groups]
        self._fixed = [word for word in self.words if word not in self._swept]
        texts, names = [word.text for word in self._fixed], [word.key for word in groups]
        self._compose = _composer(master, loader, fixed=texts, groups=names)

    def specs(
        self,
        *,
        without: Sequence[str] = (),
        axes: Sequence[Word] = (),
        rows: Iterable[tuple[int, tuple[int, ...]]] | None = None,
    ) -> list[RunSpec]:
        """The cells, or some of them; UserError if anything is wrong with any.

        Args:
            without: Keys whose sweep is left out.
            axes: Words laid over the cells.
            rows: Which of them: the number of a cell of the command, and of each axis' value; None for all.
        """
        words = [word for word in self._swept if word.key not in without]
        shape = [len(word.values) for word in words]
        at = None if rows is None else [(*_place(number, shape), *row) for number, row in rows]
        try:
            specs, problems = expand(
                [*words, *axes],
                self._conf,
                choices=self._files,
                compose=self._compose,
                dimensions=dimensions,
                rows=at,
            )
        except OmegaConfBaseException as error:  # a reference to what is not there
            specs, problems = [], [str(error).splitlines()[0]]
        if problems:
            raise UserError(page(problems))
        return specs

    def spellings(self) -> list[list[str]]:
        """The words that make each cell, in the order of `specs`."""
        each = ([f"{word.prefix}{word.key}={s}" for s in word.spellings] for word in self._swept)
        return [[word.text for word in self._fixed] + list(row) for row in itertools.product(*each)]

    def key(self, name: str, spec: RunSpec) -> Key:
        """What may stand at a key in a cell; UserError where there is no such key."""
        group = name.partition(".")[0]
        choice = {"variant": spec.variant}.get(group, self._files.get(group, ""))
        known = self._conf.keys(group, choice) if "." in name else self._conf.short_keys()
        if name not in known:
            raise UserError(no_key(name, self._conf, {group: [choice]} if "." in name else {}))
        return known[name]


def _place(number: int, shape: Sequence[int]) -> list[int]:
    """The index of each word's value in cell `number` of their product, the last one changing fastest."""
    place = []
    for size in reversed(shape):
        number, at = divmod(number, size)
        place.append(at)
    return place[::-1]


def cells(
    arguments: Sequence[str], params: Mapping[str, Any], *, master: DictConfig, loader: ConfigLoader
) -> tuple[list[RunSpec], list[list[str]]]:
    """Every cell of a command and the words that make it; see `Command`."""
    command = Command(arguments, params, master=master, loader=loader)
    return command.specs(), command.spellings()


def of_line(arguments: Sequence[str], folder: Path) -> tuple[Command, DictConfig]:
    """What stands behind run.py, composed and not run; and the whole configuration, Hydra's part too.

    Args:
        arguments: The words, and flags such as -m and --config-dir.
        folder: The configuration.

    Raises:
        UserError: Naming every mistake.
    """
    register()
    prepared = prepare(arguments, folder)
    words = [text for text in prepared if is_word(text)]
    added = [value for flag, value in itertools.pairwise(prepared) if flag in ("--config-dir", "-cd")]
    with initialize_config_dir(str(folder), version_base="1.3"):
        loader: Any = GlobalHydra.instance().config_loader()
        for path in added:
            loader.get_search_path().prepend("command-line", f"file://{Path(path).absolute()}", "schema")
        loader.repository.initialize_sources(loader.get_search_path())  # which it has read by now
        master = loader.load_configuration("config", words, run_mode=RunMode.MULTIRUN)
    task, params = master.hydra.overrides.task, master.hydra.sweeper.get("params") or {}
    return Command(list(task), params, master=master, loader=loader), master


def spec_of(config: DictConfig, hydra: DictConfig) -> RunSpec:
    """The one run that a composed configuration asks for, told Hydra's own part of it."""
    if config.get("match"):
        raise UserError(
            f"match={config.match} compares the cells of a whole sweep, but this launcher or sweeper of "
            "Hydra's hands over one run at a time: use hydra/launcher=local with hydra/sweeper=grid, the "
            "defaults"
        )
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
    known: dict[tuple[str, ...], Composed] = {}

    def compose(files: Mapping[str, str]) -> Composed:
        chosen = tuple(files[group] for group in groups)
        if chosen not in known:
            known[chosen] = fresh(files)
        return known[chosen]

    def fresh(files: Mapping[str, str]) -> Composed:
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
