"""Figures with their targets beside them, for the terminal and as CSV."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.bench.commands._common import write_csv
from experiments.bench.turns import Spread
from experiments.errors import plural
from experiments.provenance import collect


@dataclass(frozen=True)
class Figure:
    """One measured comparison: ours against something, and the ratio of the two."""

    variant: str
    targets: str
    what: str  # "step / PEFT's"
    unit: str  # of `ours` and `against`: ms, MB
    ours: Spread
    against: Spread
    ratio: Spread
    target: float | None = None  # the ratio is to be at most this
    at_least: bool = False  # or at least

    @property
    def verdict(self) -> str:
        """Whether the target is met; nothing where there is none."""
        if self.target is None:
            return ""
        value, bound = self.ratio.median, self.target
        return "met" if (value >= bound if self.at_least else value <= bound) else "MISSED"


COLUMNS = ("variant", "targets", "figure", "ours", "against", "ratio", "target", "")


def show(figures: Sequence[Figure], *, title: str, path: Path | None) -> None:
    """The table on the terminal with the machine named, and as CSV where a path is given."""
    lines = [_line(figure) for figure in figures]
    widths = [max(len(row[i]) for row in [COLUMNS, *lines]) for i in range(len(COLUMNS))]
    print(f"{title}, on {machine()}")
    for row in [COLUMNS, *lines]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if path is not None:
        _write(figures, title, path)
        print(f"written to {path}", file=sys.stderr)


def machine() -> str:
    """The processor or GPU, and how many threads compute."""
    found = collect()
    return f"{found['device']}, {plural(found['threads'], 'thread')}"


def _line(figure: Figure) -> tuple[str, ...]:
    target = "" if figure.target is None else f"{'>=' if figure.at_least else '<='} {figure.target:.3g}"
    return (
        figure.variant,
        figure.targets,
        figure.what,
        f"{figure.ours.median:.4g} {figure.unit}",
        f"{figure.against.median:.4g} {figure.unit}",
        _spread(figure.ratio),
        target,
        figure.verdict,
    )


def _spread(spread: Spread) -> str:
    if spread.low == spread.high:
        return f"{spread.median:.3f}"
    return f"{spread.median:.3f} ({spread.low:.3f} to {spread.high:.3f})"


def _write(figures: Sequence[Figure], title: str, path: Path) -> None:
    spreads = ("ours", "against", "ratio")
    parts = [name for spread in spreads for name in (spread, f"{spread}_low", f"{spread}_high")]
    rows = []
    for f in figures:
        values = [v for s in (f.ours, f.against, f.ratio) for v in (s.median, s.low, s.high)]
        numbers = [f"{value:.6g}" for value in values]
        target = "" if f.target is None else f"{f.target:g}"
        rows.append([f.variant, f.targets, f.what, f.unit, *numbers, target, title, machine()])
    write_csv(path, ["variant", "targets", "figure", "unit", *parts, "target", "workload", "machine"], rows)
