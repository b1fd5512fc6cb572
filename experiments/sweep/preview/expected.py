"""The runs that a command would make: those of its product, or the rounds of a fair sweep."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.config.command import Command
from experiments.config.reading import read
from experiments.errors import plural
from experiments.spec import RunSpec
from experiments.sweep.tuning.grids import points
from experiments.sweep.tuning.protocol import Cell, lengths, next_round
from experiments.sweep.tuning.rounds import Maker, Results
from experiments.sweep.tuning.settings import Settings, settings_of, values_of


@dataclass(frozen=True)
class Expected:
    """The runs of a command as far as they are known before it starts."""

    specs: list[RunSpec]
    workers: int | str
    pack: int | str
    notes: tuple[str, ...] = ()  # what is not known of them


def expected(arguments: Sequence[str], *, conf: Path, root: Path) -> Expected:
    """The runs of what stands behind run.py; UserError naming every mistake.

    Args:
        arguments: The words, and flags such as -m and --config-dir.
        conf: The folder of the configuration.
        root: The folder of all studies: what was tuned already decides which rounds are left.
    """
    command = read(arguments, conf)
    if command.sweeper == "fair":
        return _rounds(command, root)
    return Expected(command.runs, command.value("workers"), *_together(command, command.notes))


def _together(command: Command, notes: tuple[str, ...]) -> tuple[int | str, tuple[str, ...]]:
    """How runs are packed, and what is known of them otherwise."""
    if (n := command.value("fsdp")) == 1:
        return command.value("pack"), notes
    return "off", (*notes, f"fsdp={n}: {n} processes train each run; time and memory are shown for one.")


def _rounds(command: Command, root: Path) -> Expected:
    """All tuning runs of the grids as they are, and the confirmation at the chosen or the middle point."""
    given = next((word.values for word in command.words if word.key == "seed"), None)
    settings = settings_of(values_of(command.given, command.conf))
    seeds = settings.confirm_seeds if given is None else given
    maker = Maker(command, settings)
    found = next_round(maker.grids, maker.make, Results(root).outcome, settings, seeds)
    specs: list[RunSpec] = []
    for cell in found.cells:
        for count, divisor in cell.rounds() if cell.tunable else ():  # which points, is not known yet
            specs += replace(cell, divisor=divisor).runs("tune", cell.left[:count], settings.tune_seeds)
        specs += cell.runs("confirm", [_point(cell)], seeds)
    note = _tuning(found.cells, settings, seeds)
    return Expected(specs, command.value("workers"), *_together(command, (*command.notes, note)))


def _point(cell: Cell) -> tuple:
    middle = list(cell.specs)[len(cell.specs) // 2]
    return cell.chosen or middle


def _tuning(cells: Sequence[Cell], settings: Settings, seeds: Sequence[int]) -> str:
    tunable = [cell for cell in cells if cell.tunable]
    open_ = any(cell.chosen is None for cell in tunable)
    each = len(settings.tune_seeds) * len(tunable)
    points = max((len(cell.specs) for cell in tunable), default=0)
    shown = ", shown here at the middle one" if open_ else ""
    then = f", then seeds {_listed(seeds)} at the point that validation recommends{shown}" if seeds else ""
    grow = f" While a best value lies on an edge, up to {settings.extensions} times {each} more tuning runs."
    return (
        f"hydra/sweeper=fair: {points} points for each of {plural(len(tunable), 'cell')} on seeds "
        f"{_listed(settings.tune_seeds)}{then}.{grow * bool(settings.extensions)}{_halved(tunable, settings)}"
    )


def _halved(tunable: Sequence[Cell], settings: Settings) -> str:
    """What halving does, in a sentence."""
    if settings.halving is None or not tunable:
        return ""
    sizes = [len(points(cell.grid)) for cell in tunable]
    parts = ", ".join(f"1/{d}" for d in lengths(settings, sizes))
    return (
        f" Tuning runs have {parts} of the steps (halving={settings.halving}): after each length the best "
        f"1/{settings.halving} of the points go on, the same share of every cell's."
    )


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
