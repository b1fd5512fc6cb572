"""The settings of hydra/sweeper=fair: what may stand there, and the sentence for what may not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from experiments.config.groups import Conf
from experiments.config.overrides import Word
from experiments.errors import did_you_mean

PREFIX = "hydra.sweeper."
_TUNABLE = ("train.", "variant.")


@dataclass(frozen=True)
class Settings:
    """conf/hydra/sweeper/fair.yaml explains them and holds their defaults."""

    tune: tuple[str, ...]
    factors: tuple[float, ...]
    tune_seeds: tuple[int, ...]
    confirm_seeds: tuple[int, ...]
    extensions: int
    launched: int
    halving: int | None = None


def settings_of(values: Mapping[str, Any]) -> Settings:
    """The settings, once `problems` has found nothing wrong with them."""
    lists: dict[str, Any] = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
    return Settings(**{**values, **lists})


def check(words: Sequence[Word], conf: Conf) -> list[str]:
    """What is wrong with the hydra.sweeper.* words of a command, a sentence per problem."""
    given = {word.key: word for word in words}
    experiment = given["experiment"].values[0] if "experiment" in given else None
    if experiment not in (None, *conf.choices("experiment")):
        return []  # which is a mistake of its own
    own = {key.removeprefix(PREFIX): word for key, word in given.items() if key.startswith(PREFIX)}
    own_sweeper = conf.sweeper(experiment)[0]
    sweeper = given["hydra/sweeper"].values[0] if "hydra/sweeper" in given else own_sweeper
    if sweeper != "fair" and own_sweeper == "fair":
        return [f"experiment={experiment} needs hydra/sweeper=fair: leave hydra/sweeper={sweeper} out."]
    if sweeper != "fair":
        names = [f.name for f in fields(Settings) if f.name in own]
        return [
            f"{PREFIX}{name} is a setting of hydra/sweeper=fair: add that, or leave it out." for name in names
        ]
    swept = [f"{own[name].text} is a sweep: a list is written {PREFIX}{name}=[{_listed(own[name].values)}]."
             for name in own if own[name].swept]  # fmt: skip
    seeds = given["seed"].values if "seed" in given else None
    return swept + problems(values_of(words, conf), seeds)


def values_of(words: Sequence[Word], conf: Conf) -> dict[str, Any]:
    """The settings of a command with hydra/sweeper=fair: its own over an experiment's over the file's."""
    given = {word.key: word for word in words}
    experiment = given["experiment"].values[0] if "experiment" in given else None
    file = {k: v for k, v in conf.read("hydra/sweeper", "fair").items() if k in Settings.__annotations__}
    own = {key.removeprefix(PREFIX): word for key, word in given.items() if key.startswith(PREFIX)}
    set_here = {name: word.values[0] for name, word in own.items() if not word.swept}
    return file | conf.sweeper(experiment)[1] | set_here


def problems(values: Mapping[str, Any], seeds: Sequence[int] | None) -> list[str]:
    """What is wrong with settings, a sentence per problem.

    Args:
        values: Some or all of the settings, by their names without hydra.sweeper.
        seeds: The seeds that the command names for confirmation; None where it names none.
    """
    found = [text for name, value in values.items() if (text := _problem(name, value))]
    if found:
        return found
    confirmed = seeds if seeds is not None else values.get("confirm_seeds", ())
    both = sorted(set(values.get("tune_seeds", ())) & set(confirmed))
    if both:
        name = "seed" if seeds is not None else f"{PREFIX}confirm_seeds"
        found.append(
            f"{PREFIX}tune_seeds and {name} both hold {_listed(both)}: a rate that was chosen with a seed "
            f"looks better on it than it is. Give {PREFIX}tune_seeds other seeds."
        )
    return found


def _problem(name: str, value: Any) -> str:
    """What is wrong with one setting; empty if nothing is."""
    known = [f.name for f in fields(Settings)]
    if name not in known:
        hint = did_you_mean(name, known)
        listed = ", ".join(PREFIX + key for key in known)
        return f"hydra/sweeper=fair has no setting {PREFIX + name!r}.{hint} Known: {listed}."
    noun, allowed = _ALLOWED[name]
    return "" if allowed(value) else f"{PREFIX}{name} takes {noun}, not {_shown(value)}."


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _numbers(value: Any) -> bool:
    right = isinstance(value, list) and all(type(v) in (int, float) and 0 < v < float("inf") for v in value)
    return right and len(set(value)) == len(value) >= 2


def _seeds(value: Any, least: int = 1) -> bool:
    right = isinstance(value, list) and all(_whole(v, 0) for v in value)
    return right and len(set(value)) == len(value) >= least


def _tunable(value: Any) -> bool:
    if not isinstance(value, list) or not value or len(set(map(str, value))) < len(value):
        return False
    return all(isinstance(key, str) and (key == "lr" or key.startswith(_TUNABLE)) for key in value)


_SEEDS = "a list of different seeds, [100,101]"
_ALLOWED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "tune": ("a list of keys, lr, train.<key> or variant.<key>, as in [lr,train.weight_decay]", _tunable),
    "factors": ("a list of at least two different numbers above 0, [0.25,0.5,1,2,4]", _numbers),
    "tune_seeds": (_SEEDS, _seeds),
    "confirm_seeds": (f"{_SEEDS}, or [] to tune alone", lambda value: _seeds(value, 0)),
    "extensions": ("a whole number of at least 0", lambda value: _whole(value, 0)),
    "launched": ("a whole number of at least -1", lambda value: _whole(value, -1)),
    "halving": ("null or a whole number of at least 2", lambda value: value is None or _whole(value, 2)),
}


def _listed(values: Sequence[Any]) -> str:
    return ",".join(map(str, values))


def _shown(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
