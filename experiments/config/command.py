"""The pass over a command before Hydra sees it: tidied, read, and every mistake told at once.

Nothing heavy is imported here. What passes is composed by Hydra and checked again, by the same code, in the
form that Hydra gave it.
"""

import os
import shutil
import signal
import textwrap
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from math import prod
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException

from experiments.config import help
from experiments.config.grid import Plain, expand
from experiments.config.groups import Conf, leaves
from experiments.config.messages import no_choice, no_key, no_launcher_key, no_plugin, no_whole_group
from experiments.config.overrides import Word, effective, key_of, parse, tidied
from experiments.config.settings import Terms
from experiments.errors import UserError, say
from experiments.sweep.ranks import Dimensions, dimensions
from experiments.sweep.tuning.settings import check as check_sweeper

USAGE = 2
CELLS = 2000  # so many are checked before Hydra starts, those of a larger sweep once it has composed them
ONCE = ("study", "workers", "match", "tracker", "experiment", "repeat", *(f.name for f in fields(Terms)))
_HELP = {"--help", "-h"}
_ANSWERED_BY_HYDRA = {"--hydra-help", "--version", "--shell-completion", "-sc", "--experimental-rerun"}
_ANOTHER_CONFIG = {"--config-path", "-cp", "--config-name", "-cn"}
_MODES = {"--cfg", "-c", "--info", "-i", "--run", "-r", "--multirun", "-m"}


def prepare(
    arguments: Sequence[str], folder: Path, *, dimensions: Dimensions | None = dimensions
) -> list[str]:
    """The arguments as Hydra is to get them, once nothing is wrong with them.

    Args:
        arguments: What was typed behind the name of the program.
        folder: The configuration.
        dimensions: Facts on the model of a spec, see `experiments.config.grid.expand`.

    Raises:
        UserError: Naming every mistake.
    """
    flags, words, problems = _split(arguments)
    if flags.keys() & _HELP:
        print(help.page(folder))  # Hydra would list its own groups first, which takes it a second
        raise SystemExit(0)
    if flags.keys() & _ANSWERED_BY_HYDRA:
        return list(arguments)
    if not flags.keys() & _ANOTHER_CONFIG and not any(key_of(word) == "hydra.searchpath" for word in words):
        added = [Path(value) for flag, value in flags.items() if flag in ("--config-dir", "-cd") and value]
        conf = Conf(folder, *(path for path in added if path.is_dir()))
        words = tidied(words)
        problems += check(words, conf, dimensions=dimensions)
    if problems:
        raise UserError(page(problems))
    mode = [] if flags.keys() & _MODES or "hydra.mode=RUN" in words else ["--multirun"]
    return [*mode, *(part for item in flags.items() for part in item if part), *words]


def check(texts: Sequence[str], conf: Conf, *, dimensions: Dimensions | None = None) -> list[str]:
    """What is wrong with the words of a command, a sentence per mistake."""
    problems: list[str] = []
    given = _read(texts, conf, problems)
    files, values, params = _experiment(given, conf, problems)
    swept = _read([f"{key}={value}" for key, value in params.items()], conf, problems)
    problems += check_sweeper(effective(swept, given), conf)
    chosen, words = _chosen(effective(swept, given), {**conf.defaults(), **files}, conf, problems)
    words = [word for word in words if word.key in chosen or _fits(word, chosen, conf, problems)]
    for key, value in leaves(values):
        _fits(Word(f"{key}={value}", key, (value,), ()), chosen, conf, problems)
    choices = {group: names[0] for group, names in chosen.items()}
    composed = [value for _, value in leaves(conf.compose(choices, values=values))]
    if any("${" in str(value) for value in [*composed, *(v for word in words for v in word.values)]):
        return problems  # what they stand for is known once Hydra has composed
    if problems or prod(len(word.values) for word in words) <= CELLS:
        problems += expand(
            words,
            conf,
            choices=choices,
            compose=lambda files: Plain(conf.compose(files, values=values)),
            dimensions=dimensions,
        )[1]
    return list(dict.fromkeys(problems))


@contextmanager
def plain_errors() -> Iterator[None]:
    """Print a UserError without a traceback and exit with its code.

    ABLORA_TRACEBACK=1 or HYDRA_FULL_ERROR=1 shows the traceback. What Hydra refuses to compose is a mistake
    of the command too: its exit code 1 becomes 2.
    """
    try:
        yield
    except UserError as error:
        if "1" in (os.environ.get("ABLORA_TRACEBACK"), os.environ.get("HYDRA_FULL_ERROR")):
            traceback.print_exc()
        else:
            say(str(error), error=True)
        raise SystemExit(error.code) from None
    except SystemExit as end:
        refused = end.code == 1 and isinstance(end.__context__, HydraException)
        raise SystemExit(USAGE if refused else end.code) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


def page(problems: Sequence[str]) -> str:
    """The mistakes as one text for a terminal."""
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    lines = [
        textwrap.fill(
            _sentence(problem), width, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False
        )
        for problem in problems[:20]
    ]
    if len(problems) > 20:
        lines.append(f"  ... and {len(problems) - 20} more")
    count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
    foot = "`python run.py --help` shows the keys, variants, datasets and models."
    return "\n".join([f"Nothing was started: {count} in this command.", *lines, foot])


def _sentence(text: str) -> str:
    return text if text[-1:] in ".?!" else f"{text}."


def _split(arguments: Sequence[str]) -> tuple[dict[str, str | None], list[str], list[str]]:
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
        elif word.key in ("hydra/launcher", "hydra/sweeper"):
            problems += no_plugin(word.key, word.values[0], conf)
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
