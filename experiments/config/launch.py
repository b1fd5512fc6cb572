"""A command given to Hydra, which starts the launcher and the sweeper that it names.

Hydra composes the configuration once, of the command's first run. The runs are those of `reading.read`.
"""

import os
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal import utils as hydra_utils
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from experiments.config import help
from experiments.config.command import Command
from experiments.config.grid import Plain, expand
from experiments.config.groups import Conf
from experiments.config.messages import mistakes, plain_errors
from experiments.config.reading import read, split
from experiments.errors import UserError, say
from experiments.spec import RunSpec, register

_HELP = ("--help", "-h")
_ANSWERED_BY_HYDRA = ("--hydra-help", "--version", "--shell-completion", "-sc")
_given: list[Command] = []  # the command of this process, for the sweeper that Hydra makes


def main(arguments: Sequence[str], folder: Path) -> None:
    """Carry out a command.

    Args:
        arguments: What was typed behind the name of the program.
        folder: The configuration.
    """
    with plain_errors():
        flags, words, _ = split(arguments)
        if any(flag in flags for flag in _HELP):
            print(help.page(folder))  # Hydra would list its own groups first, which takes it a second
            return
        _check_hydras_own(flags, words)
        register()
        for_hydra = list(arguments)
        if not any(flag in flags for flag in _ANSWERED_BY_HYDRA):
            command = read(arguments, folder)
            _given[:] = [command]
            for note in command.notes:
                say(note)
            for_hydra = command.for_hydra()
        sys.argv[1:] = for_hydra
        hydra_utils.run_and_report = lambda func: func()  # its own prints tracebacks, of a UserError, too
        hydra.main(version_base="1.3", config_path=str(folder), config_name="config")(one_job)()


def _check_hydras_own(flags: Mapping[str, str | None], words: Sequence[str]) -> None:
    """Refuse what Hydra's own options cannot work on: it would show a traceback."""
    if {"--shell-completion", "-sc"} & flags.keys():
        what = words[0].partition("=") if words else ("", "", "")
        if what[0] not in ("install", "uninstall", "query") or what[2] not in ("bash", "zsh", "fish"):
            raise UserError(
                "--shell-completion takes install=bash or uninstall=bash (zsh and fish, too), as in "
                'eval "$(python run.py --shell-completion install=bash)"'
            )
        if what[0] == "query" and "COMP_LINE" not in os.environ:
            raise UserError("--shell-completion query=... is for the shell alone, which sets COMP_LINE.")
    if "--experimental-rerun" in flags:
        raise UserError("--experimental-rerun needs a pickle which no run here leaves: give its command.")


def one_job(config: DictConfig) -> NoReturn:
    """What Hydra would call for one job; runs go to the engine together."""
    raise UserError("Runs are handed over together: take hydra/sweeper=grid or fair.")


class OwnLauncher(Launcher):
    """Takes runs from `OwnSweeper`, by `launch_specs(specs)`."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> NoReturn:
        """Hydra's own contract, of one job at a time."""
        one_job(self.config)


class OwnSweeper(Sweeper):
    """Has the launcher that the command names, and the command as it was read before Hydra began."""

    params: Mapping[str, Any]

    @abstractmethod
    def run(self) -> int:
        """Have the launcher run the command's runs; the exit code."""

    def sweep(self, arguments: list[str]) -> Any:
        """Hydra's entry; the process ends here unless all went well."""
        with plain_errors():  # Hydra would print a traceback
            code = self.run()
        return sys.exit(code) if code else code

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if not hasattr(self.launcher, "launch_specs"):
            raise UserError(
                "this launcher of Hydra's takes one job at a time, and runs are handed over together: leave "
                "hydra/launcher out, or give hydra/launcher=local or slurm."
            )
        self.command = _given[0]
        self._agree(config)

    def _agree(self, config: DictConfig) -> None:
        """Refuse a configuration that Hydra reads otherwise than `groups.Conf` does."""
        if self.command.params != dict(self.params):
            raise UserError("hydra.sweeper.params may be set in experiments only: write key=a,b instead.")
        first = self.command.runs[0]
        composed = _composed(config)
        ours, theirs = first.as_record(), composed.as_record()
        other = ("config_dirs", *(("r", "matched") if first.matched is not None else ()))
        differs = [k for k in ours | theirs if k not in other and ours.get(k) != theirs.get(k)]
        if differs:
            raise UserError(
                f"Hydra composes {differs[0]}={theirs.get(differs[0])} from this configuration, where "
                f"{ours.get(differs[0])} is read here: a file of it uses what ablora does not know of Hydra. "
                "Write it like the files in conf/."
            )


def _composed(config: DictConfig) -> RunSpec:
    """The first run, as Hydra composed it."""
    conf = Conf.of_hydra(config.hydra)
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    plain: Any = OmegaConf.to_container(own, resolve=True)
    files = {group: str(config.hydra.runtime.choices[group]) for group in conf.defaults()}
    specs, problems = expand([], conf, choices=files, compose=lambda _: Plain(plain | {"match": None}))
    if problems:
        raise UserError(mistakes(problems))
    return specs[0]
