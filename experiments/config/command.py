"""A command without mistakes: the runs that it requests, and what Hydra gets of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from experiments.config.grid import Composed, Interpolated, Plain, expand
from experiments.config.groups import Conf, leaves
from experiments.config.messages import mistakes, no_key
from experiments.config.overrides import Word, key_of
from experiments.config.schema import Key
from experiments.errors import UserError
from experiments.models import dimensions
from experiments.sizing.ranks import Dimensions
from experiments.spec import RunSpec

_SHOWN = ("--cfg", "-c", "--info", "-i")
_MODES = ("--multirun", "-m", "--run", "-r")  # one run takes the same way as many


@dataclass(frozen=True)
class Command:
    """One command without mistakes."""

    typed: tuple[str, ...]  # behind the name of the program
    flags: Mapping[str, str | None]
    texts: tuple[str, ...]  # its words in Hydra's spelling
    conf: Conf
    given: tuple[Word, ...]  # all of them, those of an experiment under those that were typed
    words: tuple[Word, ...]  # of these what the runs are made of: none of Hydra's
    files: Mapping[str, str]  # of each group that no word chooses
    values: Mapping[str, Any]  # what an experiment sets
    params: Mapping[str, Any]  # what it sweeps
    sweeper: str
    notes: tuple[str, ...] = ()  # what was settled while it was read

    @cached_property
    def runs(self) -> list[RunSpec]:
        """All of them, equal ones included, in the order of the words."""
        return self.specs()

    def specs(
        self,
        *,
        without: Sequence[str] = (),
        axes: Sequence[Word] = (),
        rows: Iterable[tuple[int, tuple[int, ...]]] | None = None,
    ) -> list[RunSpec]:
        """The runs, or some of them; UserError if anything is wrong with any.

        Args:
            without: Keys whose words are left out.
            axes: Words laid over the runs.
            rows: Which of them: the number of a run of the command, and of each axis' value; None for all.
        """
        words = [word for word in self.words if word.key not in without]
        shape = [len(word.values) for word in words]
        at = None if rows is None else [(*_place(number, shape), *row) for number, row in rows]
        specs, problems = self._expand([*words, *axes], rows=at, dimensions=dimensions)
        if problems:
            raise UserError(mistakes(problems))
        return specs

    def _expand(
        self,
        words: Sequence[Word],
        *,
        rows: Iterable[tuple[int, ...]] | None = None,
        dimensions: Dimensions | None,
    ) -> tuple[list[RunSpec], list[str]]:
        follows = any("${" in str(value) for word in words for value in word.values)

        def compose(files: Mapping[str, str]) -> Composed:
            config = self.conf.compose(files, values=self.values)
            if follows or any("${" in str(value) for _, value in leaves(config)):
                return Interpolated(config)
            return Plain(config)

        try:
            return expand(
                words, self.conf, choices=self.files, compose=compose, dimensions=dimensions, rows=rows
            )
        except OmegaConfBaseException as error:  # a reference to what is not there
            return [], [str(error).splitlines()[0]]

    def value(self, name: str) -> Any:
        """The value of a key that has one for all runs."""
        word = next((word for word in self.words if word.key == name), None)
        return self.conf.compose(self.files, values=self.values)[name] if word is None else word.values[0]

    def key(self, name: str, spec: RunSpec) -> Key:
        """What may stand at a key in a run; UserError where there is no such key."""
        group = name.partition(".")[0]
        choice = {"variant": spec.variant}.get(group, self.files.get(group, ""))
        known = self.conf.keys(group, choice) if "." in name else self.conf.short_keys()
        if name not in known:
            raise UserError(no_key(name, self.conf, {group: [choice]} if "." in name else {}))
        return known[name]

    def for_hydra(self) -> list[str]:
        """The arguments from which Hydra composes what it needs: launcher, sweeper, and the first run.

        The other runs are none of its business.
        """
        flags = {name: value for name, value in self.flags.items() if name not in _MODES}
        if not any(shown in flags for shown in _SHOWN):
            flags = {"--multirun": None, **flags}
        first = {word.key: f"{word.prefix}{word.key}={word.spelling}" for word in self.words}
        texts = [text for text in self.texts if key_of(text) not in first] + [*first.values()]
        if self.sweeper != self.conf.sweeper()[0] and "hydra/sweeper" not in map(key_of, texts):
            texts.append(f"hydra/sweeper={self.sweeper}")  # an experiment's, which Hydra would not override
        return [*(part for item in flags.items() for part in item if part), *texts]


def _place(number: int, shape: Sequence[int]) -> list[int]:
    """The index of each word's value in run `number` of their product, the last one changing fastest."""
    place = []
    for size in reversed(shape):
        number, at = divmod(number, size)
        place.append(at)
    return place[::-1]
