"""What a person reads of mistakes: a sentence for each, with what was probably meant."""

import os
import shutil
import signal
import textwrap
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from hydra.errors import HydraException

from experiments.config.groups import Conf
from experiments.config.overrides import Word
from experiments.config.settings import DEFAULTS, FACTS
from experiments.errors import UserError, did_you_mean, nearest, refusal, say

USAGE = 2
PLUGINS = {"hydra/launcher": ("local",), "hydra/sweeper": ("grid",)}  # beside the files of conf/hydra

# What other tools call our keys.
_ELSEWHERE = {
    "alpha_r": "alpha",
    "batch": "train.batch_size",
    "data": "dataset",
    "epoch": "train.epochs",
    "experiment_name": "study",
    "learning_rate": "lr",
    "lora_alpha": "alpha",
    "lora_dropout": "variant.dropout",
    "max_steps": "train.steps",
    "method": "variant",
    "modules": "targets",
    "rank": "r",
    "seeds": "seed",
    "target_modules": "targets",
}
_ANY = {
    "model": ("hf", "Any model of the hub: model=hf model.name={}."),
    "dataset": (
        "csv",
        "Your own file: dataset=csv dataset.path={0}. Any of the hub: dataset=hub dataset.name={1}.",
    ),
}


def no_choice(group: str, value: object, conf: Conf) -> str:
    """A group has no such file."""
    known = conf.choices(group)
    hint = did_you_mean(str(value), known)
    file, other = _ANY.get(group, ("", ""))
    at_hub = value if "/" in str(value) else f"owner/{value}"
    other = f" {other.format(value, at_hub)}" if file in known and not hint else ""
    noun = {"train": "file of training settings"}.get(group, group)
    given = "null" if value is None else str(value)
    return f"There is no {noun} {given!r}.{hint} Known: {', '.join(known)}.{other}"


def no_key(name: str, conf: Conf, chosen: Mapping[str, Sequence[str]]) -> str:
    """No key of this name, or not in all the files that the command chooses."""
    group, _, last = name.partition(".")
    if group == "variant" and last in (*FACTS, *DEFAULTS):
        outside = {"head_lr": "train.head_lr"}.get(last, last)
        return (
            f"{name} is the variant's own default and stays as its file says: write {outside}=... instead."
            if last in DEFAULTS
            else f"{name} says what the variant is and cannot be set."
        )
    if group in chosen and last:
        having = [file for file in conf.choices(group) if name in conf.keys(group, file)]
        if having:
            return _not_here(name, group, having, chosen[group])
    known = [
        *conf.short_keys(),
        *chosen,
        *(k for g, files in chosen.items() for f in files for k in conf.keys(g, f)),
    ]
    hint = _meant(name, list(dict.fromkeys(known)))
    if group in chosen and last and not hint:
        keys = sorted(k for file in chosen[group][:1] for k in conf.keys(group, file))
        hint = f" {group}={chosen[group][0]} has {', '.join(keys)}."
    elif not hint:
        hint = (
            f" Known: {', '.join([*conf.short_keys(), *chosen])}, and keys with a dot, as --help shows them."
        )
    return f"There is no key {name!r}.{hint}"


def no_plugin(group: str, value: object, conf: Conf) -> list[str]:
    """What is wrong with the choice of a launcher or sweeper, if anything is."""
    if not isinstance(value, str):
        return [f"{group} takes a name, not {value!r}."]
    known = sorted({*PLUGINS[group], *conf.choices(group)})
    if value in known:
        return []
    return [f"There is no {group} {value!r}.{did_you_mean(value, known)} Known: {', '.join(known)}."]


def no_whole_group(word: Word) -> list[str]:
    """What is wrong with a word that sets all of hydra.launcher or hydra.sweeper at once."""
    if all(isinstance(value, dict) for value in word.values):
        return []
    group = word.key.replace(".", "/")
    return [
        f"{word.key} is a group of keys: write {group}=<name> to choose another, {word.key}.<key>=... to set "
        f"a key of it."
    ]


def no_launcher_key(word: Word, launchers: Sequence[Word], conf: Conf) -> list[str]:
    """What is wrong with a word on Slurm's jobs; other launchers' keys are Hydra's to check."""
    from experiments.sweep.slurm.settings import BY_SPEC, problems_of

    key = word.key.removeprefix("hydra.launcher.")
    if not launchers:
        return [f"{word.key} is of a launcher that is not chosen: add hydra/launcher=slurm."]
    file = launchers[0].values[0]
    if file not in conf.choices("hydra/launcher"):
        return []
    if word.swept:
        return [
            f"{word.key} takes one value per command; what differs by variant or model is set in resources."
        ]
    return list(problems_of(key, word.values[0], known={kind: conf.choices(kind) for kind in BY_SPEC}))


def _not_here(name: str, group: str, having: Sequence[str], chosen: Sequence[str]) -> str:
    """A key that other files of its group have."""
    lacking = ",".join(file for file in chosen if file not in having)
    verb = "has" if len(having) == 1 else "have"
    if len(chosen) > 1:
        elsewhere = f"give it in a command without {group}={lacking}"
    else:
        elsewhere = f"write {group}={having[0]}" if len(having) == 1 else "choose one of these"
    known = ", ".join(having)
    return f"{group}={lacking} has no key {name} ({known} {verb} it): leave {name} out, or {elsewhere}."


def _meant(name: str, known: Sequence[str]) -> str:
    """The nearest key: one of the same last part, another tool's name for it, or a similar one."""
    last = name.rpartition(".")[2]
    same = [key for key in known if key.rpartition(".")[2] == last]
    elsewhere = _ELSEWHERE.get(last)
    if same or elsewhere:
        return f" Did you mean {(same[0] if same else elsewhere)!r}?"
    lasts = {key.rpartition(".")[2]: key for key in reversed(known)}
    meant = nearest(name, known) or lasts.get(nearest(last, lasts) or "")
    return f" Did you mean {meant!r}?" if meant else ""


@contextmanager
def plain_errors() -> Iterator[None]:
    """Print a UserError, or what the system says of a file, without a traceback and exit with its code.

    ABLORA_TRACEBACK=1 or HYDRA_FULL_ERROR=1 shows the traceback. What Hydra refuses to compose is a mistake
    of the command too.
    """
    try:
        yield
    except HydraException as error:
        say("\n".join(map(str, filter(None, (error, error.__cause__)))), error=True)
        raise SystemExit(USAGE) from None
    except (UserError, OSError) as error:
        refused = error if isinstance(error, UserError) else refusal(error)
        if "1" in (os.environ.get("ABLORA_TRACEBACK"), os.environ.get("HYDRA_FULL_ERROR")):
            traceback.print_exc()
        else:
            text = str(refused)
            say(text if text.startswith("Nothing was started") else f"error: {text}", error=True)
        raise SystemExit(refused.code) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


def mistakes(problems: Sequence[str]) -> str:
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
