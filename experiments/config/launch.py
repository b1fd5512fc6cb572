"""A command given to Hydra, which starts the launcher and the sweeper that it names.

Hydra composes the configuration once, of the command's first run. The runs are those of `reading.read`.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal import utils as hydra_utils
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from experiments.config import help
from experiments.config.command import Command
from experiments.config.composed import spec_of
from experiments.config.groups import Conf
from experiments.config.messages import mistakes, plain_errors
from experiments.config.reading import read, split, understood
from experiments.errors import UserError, say
from experiments.spec import register

_HELP = ("--help", "-h")
_ANSWERED_BY_HYDRA = ("--hydra-help", "--version", "--shell-completion", "-sc", "--experimental-rerun")
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
        hydra.main(version_base="1.3", config_path=str(folder), config_name="config")(alone)()


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
    rerun = flags.get("--experimental-rerun")
    if "--experimental-rerun" in flags and not (rerun and Path(rerun).is_file()):
        raise UserError(
            f"--experimental-rerun takes the config.pickle of an earlier run; {rerun} is no file."
        )


def alone(config: DictConfig) -> float:
    """One run by itself, for launchers that know nothing of sweeps (hydra/launcher=basic, joblib, ...)."""
    from experiments.sweep.jobs import run_alone

    return run_alone(config)


class OwnSweeper(Sweeper):
    """Has the launcher that the command names, and the command as it was read before Hydra began."""

    params: Mapping[str, Any]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.command = _given[0] if _given else _again(config)
        self._agree(config)

    def _agree(self, config: DictConfig) -> None:
        """Refuse a configuration that Hydra reads otherwise than `groups.Conf` does."""
        if self.command.params != dict(self.params):
            raise UserError("hydra.sweeper.params may be set in experiments only: write key=a,b instead.")
        first = self.command.runs[0]
        composed = spec_of(config, config.hydra, match=False)
        ours, theirs = first.as_record(), composed.as_record()
        other = ("config_dirs", *(("r", "matched") if first.matched is not None else ()))
        differs = [k for k in ours | theirs if k not in other and ours.get(k) != theirs.get(k)]
        if differs:
            raise UserError(
                f"Hydra composes {differs[0]}={theirs.get(differs[0])} from this configuration, where "
                f"{ours.get(differs[0])} is read here: a file of it uses what ablora does not know of Hydra. "
                "Write it like the files in conf/."
            )


def _again(config: DictConfig) -> Command:
    """The command of a Hydra application that is not ours, by the words that Hydra was given."""
    words = [*config.hydra.overrides.task, *config.hydra.overrides.hydra]
    command, problems = understood(words, Conf.of_hydra(config.hydra))
    if problems:
        raise UserError(mistakes(problems))
    return command
