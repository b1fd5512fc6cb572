"""A command line, read in one pass: its words, every mistake in them at once, and the runs that it requests.

Hydra reads it a second time to choose launcher and sweeper; the runs are those that are made here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from math import prod
from pathlib import Path

from hydra._internal.utils import get_args_parser

from experiments.config.command import Command
from experiments.config.groups import Conf, leaves
from experiments.config.messages import (
    PLUGINS,
    mistakes,
    no_choice,
    no_key,
    no_launcher_key,
    no_plugin,
    no_whole_group,
)
from experiments.config.overrides import Word, effective, key_of, parse, tidied
from experiments.config.settings import Terms
from experiments.errors import UserError
from experiments.models import dimensions
from experiments.sizing.ranks import Dimensions
from experiments.sweep.precision import AUTO, settle
from experiments.sweep.tuning.settings import check as check_sweeper

CELLS = 2000  # so many are expanded although something is wrong, to name what else is
ONCE = ("study", "workers", "match", "tracker", "experiment", "repeat", *(f.name for f in fields(Terms)))


def read(arguments: Sequence[str], folder: Path, *, dimensions: Dimensions | None = dimensions) -> Command:
    """What a command requests.

    Args:
        arguments: What was typed behind the name of the program.
        folder: The configuration, unless the command names another one.
        dimensions: Facts on the model of a spec, see `experiments.config.grid.expand`.

    Raises:
        UserError: Naming every mistake.
    """
    flags, texts, wrong = split(arguments)
    conf = _conf(flags, texts, folder)
    command, problems = understood(texts, conf, dimensions=dimensions, typed=arguments, flags=flags)
    if wrong or problems:
        raise UserError(mistakes([*wrong, *problems]))
    return command


def understood(
    texts: Sequence[str],
    conf: Conf,
    *,
    dimensions: Dimensions | None = dimensions,
    typed: Sequence[str] = (),
    flags: Mapping[str, str | None] | None = None,
) -> tuple[Command, list[str]]:
    """The words of a command with its runs, and what is wrong with it, a sentence per mistake."""
    problems: list[str] = []
    texts = tidied(texts, takes_text=lambda key: _takes_text(key, conf))
    given = _read(texts, conf, problems)
    files, values, params = _experiment(given, conf, problems)
    swept = _read([f"{key}={value}" for key, value in params.items()], conf, problems)
    everything = effective(swept, given)
    problems += check_sweeper(everything, conf)
    chosen, words = _chosen(everything, {**conf.defaults(), **files}, conf, problems)
    words = [word for word in words if word.key in chosen or _fits(word, chosen, conf, problems)]
    for key, value in leaves(values):
        _fits(Word(f"{key}={value}", key, (value,), str(value)), chosen, conf, problems)
    command = Command(
        typed=tuple(typed),
        flags=flags or {},
        texts=tuple(texts),
        conf=conf,
        given=tuple(everything),
        words=tuple(words),
        files={**conf.defaults(), **files},
        values=values,
        params=params,
        sweeper=_sweeper(given, conf),
    )
    if not problems or prod(len(word.values) for word in words) <= CELLS:
        runs, wrong = command._expand(words, dimensions=dimensions)
        problems += wrong
        command.__dict__["runs"] = runs
        if not problems and any(run.train.precision == AUTO for run in runs):
            return _settled(command, dimensions)
    return command, list(dict.fromkeys(problems))


def _settled(command: Command, dimensions: Dimensions | None) -> tuple[Command, list[str]]:
    """The same command with the precision that train.precision=auto stands for."""
    named = {word.key: word.values for word in command.given}
    if len(named.get("train.precision", ())) > 1:
        return command, [
            "train.precision=auto is one value for all runs of a study: give no other beside it."
        ]
    launcher = named.get("hydra/launcher", ("local",))[0]
    if launcher != "local":
        return command, [
            f"train.precision=auto is measured where the command is given, and hydra/launcher={launcher} has "
            "the runs done elsewhere: give train.precision=fp32 or bf16."
        ]
    try:
        precision, why = settle(command.runs, Path("runs"))
    except UserError as error:
        return command, [str(error)]
    kept = [text for text in command.texts if key_of(text) != "train.precision"]
    texts = [*kept, f"train.precision={precision}"]
    made, problems = understood(
        texts, command.conf, dimensions=dimensions, typed=command.typed, flags=command.flags
    )
    return replace(made, notes=(*made.notes, why)), problems


def _conf(flags: Mapping[str, str | None], texts: Sequence[str], folder: Path) -> Conf:
    """The configuration that a command reads, in Hydra's order: its own folder, then those it adds."""
    path = next((value for flag in ("--config-path", "-cp") if (value := flags.get(flag))), None)
    name = next((value for flag in ("--config-name", "-cn") if (value := flags.get(flag))), None)
    added = [value for flag in ("--config-dir", "-cd") if (value := flags.get(flag))]
    for text in texts:
        if key_of(text) == "hydra.searchpath":
            added = [str(value) for value in parse(text).values[0]] + added
    folders = [folder if path is None else Path(path), *(Path(a.removeprefix("file://")) for a in added)]
    missing = next((place for place in folders if not place.is_dir()), None)
    if missing is not None:
        raise UserError(f"There is no folder {missing}, where more of the configuration should be.")
    return Conf(*folders, name=(name or "config").removesuffix(".yaml"))


def _takes_text(key: str, conf: Conf) -> bool:
    """Whether what is typed for a key is a text, also if it looks like a number."""
    if key in conf.groups():
        return True
    if key.startswith("hydra.launcher."):
        from experiments.sweep.slurm.settings import JOB, SHAPE

        last = key.rpartition(".")[2]
        return any(last in keys and keys[last].kind in ("text", "texts") for keys in (SHAPE, JOB))
    return conf.takes_text(key)


def _sweeper(given: Sequence[Word], conf: Conf) -> str:
    named = {word.key: word.values[0] for word in given}
    experiment = named.get("experiment")
    known = experiment if experiment in conf.choices("experiment") else None
    return str(named.get("hydra/sweeper") or conf.sweeper(known)[0])


def split(arguments: Sequence[str]) -> tuple[dict[str, str | None], list[str], list[str]]:
    """Options with their values, words, and what is wrong with the options. Hydra wants the options first."""
    options = {name: a for a in get_args_parser()._actions for name in a.option_strings}
    flags: dict[str, str | None] = {}
    words, problems = [], []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, _, value = argument.partition("=")
        if not argument.startswith("-"):
            words.append(argument)
        elif name not in options:
            key = name.lstrip("-")
            if not value and rest[:1] and rest[0][:1] != "-" and "=" not in rest[0]:
                value = rest.pop(0)
            problems.append(
                f"There is no option {name!r}. Keys are written without dashes: {key}={value or '...'}."
            )
        else:
            takes = options[name].nargs is None or (
                options[name].nargs == "?" and rest[:1] and "=" not in rest[0]
            )
            flags[name] = value or (rest.pop(0) if takes and rest else None)
    return flags, words, problems


def _read(texts: Sequence[str], conf: Conf, problems: list[str]) -> list[Word]:
    words: dict[str, Word] = {}
    for text in texts:
        try:
            word = parse(text, choices=conf.choices)
        except ValueError as error:
            homes = [group for group in conf.groups() if text in conf.choices(group)]
            hint = f" Did you mean {homes[0]}={text}?" if homes else ""
            problems.append(f"{text!r} {error}{hint}")
            continue
        if word.key in words:
            problems.append(
                f"{word.key} is given twice, {words[word.key].text} and {word.text}: a sweep is written "
                f"{word.key}=a,b in one word."
            )
        words[word.key] = word
    return list(words.values())


def _experiment(
    words: Sequence[Word], conf: Conf, problems: list[str]
) -> tuple[dict[str, str], dict[str, object], dict[str, object]]:
    """What +experiment=... sets: files, values, and what it sweeps."""
    for word in words:
        if word.key != "experiment":
            continue
        if word.swept:
            problems.append("experiment takes one name per command: each experiment is a sweep of its own.")
        elif word.values[0] not in conf.choices("experiment"):
            problems.append(no_choice("experiment", word.values[0], conf))
        else:
            return conf.experiment(str(word.values[0]))
    return {}, {}, {}


def _chosen(
    words: Sequence[Word], defaults: Mapping[str, str], conf: Conf, problems: list[str]
) -> tuple[dict[str, list[str]], list[Word]]:
    """The files that the command takes from each group, and the words without those that name none."""
    chosen = {group: [file] for group, file in defaults.items()}
    kept = []
    for word in words:
        if word.key in chosen:
            known = [i for i, value in enumerate(word.values) if value in conf.choices(word.key)]
            problems += [
                no_choice(word.key, value, conf) for i, value in enumerate(word.values) if i not in known
            ]
            if word.swept and word.key in ONCE:
                problems.append(f"{word.key} takes one value per command: give a command for each.")
            if known:
                word = replace(word, values=tuple(word.values[i] for i in known))
                chosen[word.key] = list(word.values)
                kept.append(word)
        elif word.key != "experiment" and not word.key.startswith(("hydra.", "hydra/")):
            kept.append(word)
        elif word.key in PLUGINS:
            problems += no_plugin(word.key, word.values[0], conf)
        elif word.key == "hydra.mode":
            problems.append("hydra.mode is the same for one run and for many: leave it out.")
        elif word.key in ("hydra.launcher", "hydra.sweeper"):
            problems += no_whole_group(word)
        elif word.key.startswith("hydra.launcher."):
            problems += no_launcher_key(word, [w for w in words if w.key == "hydra/launcher"], conf)
    return chosen, kept


def _fits(word: Word, chosen: Mapping[str, Sequence[str]], conf: Conf, problems: list[str]) -> bool:
    """Whether there is such a key in every chosen file, and its values may stand there."""
    group = word.key.partition(".")[0]
    schemas = [conf.keys(group, file) for file in chosen.get(group, ())] or [conf.short_keys()]
    if not all(word.key in schema for schema in schemas):
        problems.append(no_key(word.key, conf, chosen))
        return False
    before = len(problems)
    if word.swept and group in ONCE:
        problems.append(f"{word.key} takes one value per command: give a command for each.")
    for key in dict.fromkeys(schema[word.key] for schema in schemas):
        for value in word.values:
            try:
                key.convert(value)
            except ValueError as error:
                problems.append(str(error))
    return len(problems) == before
