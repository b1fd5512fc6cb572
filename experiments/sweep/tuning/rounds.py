"""Fair tuning from a command to its end: round after round through a launcher.

A launcher that is `detached` submits and returns; a follow-up job, with the same command, plans the next
round when those runs have ended. That command says in hydra.sweeper.launched which rounds have had their
chance, so that a run which is lost for good cannot keep a study going for ever.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments import record
from experiments.config.command import Command
from experiments.config.messages import mistakes
from experiments.config.overrides import Word
from experiments.config.schema import Key
from experiments.errors import UserError, plural, say
from experiments.spec import RunSpec
from experiments.sweep.tuning.grids import Axis, Grid, Point, equal
from experiments.sweep.tuning.protocol import FAILED, Cell, Outcome, Round, compared, lost, next_round
from experiments.sweep.tuning.settings import PREFIX, Settings, problems, settings_of

ENDED = (0, 1)  # exit codes of a launch after which there is a next round
LAUNCHED = f"{PREFIX}launched"


def run(command: Command, values: dict[str, Any], launcher: Any, *, root: Path = Path("runs")) -> int:
    """Tune, confirm and report what a command asks for.

    Args:
        command: The command and what Hydra composed for it.
        values: The settings of the sweeper.
        launcher: `launch_specs(specs, at_end=...)` runs specs, or submits them, and gives an exit code; one
            that is `detached` also has `launch_after(command)`.
        root: The folder of all studies.

    Returns:
        The exit code; 1 if some run failed or a cell has no result.

    Raises:
        UserError: The command or the settings are wrong; nothing was started.
    """
    given = next((word for word in command.words if word.key == "seed"), None)
    wrong = problems(values, None if given is None else given.values)
    if wrong:
        raise UserError(mistakes(wrong))
    settings = settings_of(values)
    seeds = settings.confirm_seeds if given is None else given.values
    maker = Maker(command, settings)
    results = Results(root)
    code = 0
    while True:
        found = next_round(maker.grids, maker.make, results.outcome, settings, seeds)
        if found.done:
            break
        _announce(found, settings, seeds)
        if getattr(launcher, "detached", False):
            code = launcher.launch_specs(found.specs)
            if code == 0:
                launcher.launch_after(follow_up(command.typed, found.number))
            return code
        ended = launcher.launch_specs(found.specs, at_end="report" if found.phase == "confirm" else "nothing")
        if ended not in ENDED:
            return ended
        code = max(code, ended)
        settings = replace(settings, launched=found.number)
    if found.specs and settings.launched != found.number:
        launcher.launch_specs(found.specs)  # all of them have ended: the table and the report
    return _conclude(found, settings, results, seeds) or code


def follow_up(typed: Sequence[str], number: int) -> list[str]:
    """The command that plans the next round once the runs of round `number` have ended."""
    kept = [word for word in typed if not word.lstrip("+").startswith(f"{LAUNCHED}=")]
    return [sys.executable, "-m", "experiments", "run", *kept, f"{LAUNCHED}={number}"]


class Maker:
    """The cells of a command: their initial grids, and the specs of their points."""

    def __init__(self, command: Command, settings: Settings):
        self._command, self._tune = command, settings.tune
        self._without = (*settings.tune, "seed")
        plain = command.specs(without=self._without)
        first: dict[RunSpec, int] = {}
        for number, spec in enumerate(plain):
            first.setdefault(spec, number)
        self.grids: dict[int, Grid] = {
            number: tuple(self._axis(key, spec, settings) for key in settings.tune)
            for spec, number in first.items()
        }

    def make(self, wanted: Sequence[tuple[int, Point]]) -> list[RunSpec]:
        """The specs of (cell, point) pairs."""
        if not wanted:
            return []
        columns = [list(dict.fromkeys(point[i] for _, point in wanted)) for i in range(len(self._tune))]
        words = [_word(key, values) for key, values in zip(self._tune, columns, strict=True)]
        rows = [
            (number, tuple(column.index(v) for column, v in zip(columns, point, strict=True)))
            for number, point in wanted
        ]
        return self._command.specs(without=self._without, axes=words, rows=rows)

    def _axis(self, key: str, spec: RunSpec, settings: Settings) -> Axis:
        """The values that the command gives, or the variant's own rate times the factors."""
        word = next((word for word in self._command.words if word.key == key), None)
        allows = _allows(self._command.key(key, spec))
        if key == "lr" and spec.lr == 0:  # a method that trains nothing
            return Axis(key, (None,))
        if word is None and key == "lr":
            return Axis(key, tuple(float(f"{spec.lr * f:.6g}") for f in settings.factors), allows)
        values = tuple(dict.fromkeys(word.values)) if word is not None else ()
        if key == "lr":
            values = tuple(dict.fromkeys(spec.lr if v is None else float(v) for v in values))
        if len(values) < 2:
            raise UserError(
                f"hydra/sweeper=fair tunes {key} and needs several values to choose from: write {key}=a,b,c"
                + (", or leave lr out for rates around each variant's own." if key == "lr" else ".")
            )
        return Axis(key, values, allows)


def _word(key: str, values: Sequence[Any]) -> Word:
    return Word(key, key, tuple(values), str(values[0]), swept=True)


def _allows(key: Key) -> Callable[[Any], bool]:
    def allows(value: Any) -> bool:
        try:
            key.convert(value)
        except ValueError:
            return False
        return True

    return allows


class Results:
    """What runs gave on validation, read from their records once they have one."""

    def __init__(self, root: Path):
        self._root = root
        self._known: dict[RunSpec, Outcome] = {}

    def outcome(self, spec: RunSpec) -> Outcome:
        """The score, higher being better; -inf if it diverged, FAILED, or None while there is no record."""
        if self._known.get(spec) in (None, FAILED):
            self._known[spec] = self._read(spec)
        return self._known[spec]

    def _read(self, spec: RunSpec) -> Outcome:
        from experiments.data import fingerprint

        found = record.read(self._root / spec.study / spec.run_id(fingerprint(spec)))
        if found is None:
            return None
        if found["status"] == "diverged":
            return -math.inf
        if found["status"] != "completed":
            return FAILED
        sign = 1.0 if found["primary"]["goal"] == "max" else -1.0
        return sign * float(found["metrics"][f"validation/{found['primary']['metric']}"])


def _announce(found: Round, settings: Settings, seeds: Sequence[int]) -> None:
    """One line on a round before it starts."""
    tunable = [cell for cell in found.cells if cell.tunable]
    if found.phase == "confirm":
        lines = [_chosen(cell) for cell in found.cells]
        what = f"Confirming on seeds {_listed(seeds)}"
    else:
        lines = []
        count = max(len(cell.left) for cell in tunable)
        cells = plural(len(tunable), "cell")
        what = f"Tuning on seeds {_listed(settings.tune_seeds)}: {count} points for each of {cells}"
        if settings.halving:
            what += f", with 1/{tunable[0].divisor} of the steps"
        if found.number > settings.extensions:
            what += f": the best of {max(len(cell.specs) for cell in tunable)}"
        elif found.number:
            what += f", after growing {found.number} of at most {settings.extensions} times"
    say("\n".join([*lines, f"{what}."]))


def _chosen(cell: Cell) -> str:
    """What was chosen for a cell, in a line."""
    if not cell.tunable:
        return f"{cell.name}: nothing to tune"
    if cell.chosen is None:
        return f"{cell.name}: every one of its {len(cell.specs)} points failed or diverged; not confirmed"
    point = ", ".join(f"{axis.key}={value}" for axis, value in zip(cell.grid, cell.chosen, strict=True))
    edge = "; still on an edge, the best may lie beyond" if cell.edge else ""
    return f"{cell.name}: {point} of {len(cell.specs)} points{edge}"


def _conclude(found: Round, settings: Settings, results: Results, seeds: Sequence[int]) -> int:
    """Say what is lacking at the end; the exit code."""
    for cell in found.cells:
        if cell.chosen is None or not seeds:
            say(_chosen(cell), error=cell.chosen is None)
    groups = compared([cell for cell in found.cells if cell.tunable])
    if not all(equal([cell.grid for cell in group]) for group in groups):
        say("The cells could not be given equally many points; the report says which differ.")
    return 1 if lost(found, results.outcome, seeds) else 0


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
