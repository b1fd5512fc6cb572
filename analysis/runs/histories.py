"""The loss curves of runs, thinned: what the figures draw and the guidance reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.record import read_history

POINTS = 60  # per curve: more cannot be seen
_NUMBERS = frozenset((int, float))


class Curves(NamedTuple):
    """Training and validation loss of one run, as arrays (points, 2) of step and loss."""

    training: np.ndarray
    validation: np.ndarray


def curves(path: Path) -> Curves:
    """The curves of a history file; empty where nothing was logged."""
    rows = read_history(path)
    return Curves(thin(column(rows, "loss")), thin(column(rows, "validation/loss")))


def column(rows: Sequence[Any], key: str) -> np.ndarray:
    """The pairs (step, value) of one column (n, 2).

    A step that a resumed run logged again counts as logged last.
    """
    logged = [
        (row["step"], row[key])
        for row in rows
        if type(row) is dict and type(row.get(key)) in _NUMBERS and type(row.get("step")) in _NUMBERS
    ]
    pairs = np.array(logged, float).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if (np.diff(pairs[:, 0]) > 0).all():
        return np.asarray(pairs)
    _, last = np.unique(pairs[::-1, 0], return_index=True)
    return np.asarray(pairs[::-1][last])


def last_loss(curve: np.ndarray) -> float:
    """The mean of a curve (n, 2) over the last tenth of its steps; nan of an empty one."""
    return float(curve[curve[:, 0] >= 0.9 * curve[-1, 0], 1].mean()) if len(curve) else float("nan")


def picked(curve: np.ndarray, points: int = POINTS) -> np.ndarray:
    """At most `points` of the pairs of a curve (n, 2) as they are, the first and the last among them."""
    if len(curve) <= points:
        return curve
    return np.asarray(curve[np.linspace(0, len(curve) - 1, points).round().astype(int)])


def thin(curve: np.ndarray, points: int = POINTS) -> np.ndarray:
    """A curve (n, 2) as at most `points` averages over equal stretches of it."""
    if len(curve) <= points:
        return curve
    return np.array([part.mean(axis=0) for part in np.array_split(curve, points)])
