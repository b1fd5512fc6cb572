"""Contenders measured in turn, in one process, so that a noisy machine is noisy for all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Spread:
    """A quantity over the rounds: its median and its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least two values."""
        low, middle, high = statistics.quantiles(values, n=4)
        return cls(middle, low, high)

    @classmethod
    def exact(cls, value: float) -> "Spread":
        """Of a quantity that is the same each time."""
        return cls(value, value, value)


def in_turn(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run every contender once per round, the order turned by one each round.

    So none always follows the same. `clock` is in seconds; `time.process_time` leaves out
    what others compute.

    Returns:
        Milliseconds of each contender, one per round.
    """
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warmup + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            _synchronise()
            started = clock()
            contenders[name]()
            _synchronise()
            if number >= warmup:
                times[name].append(1000 * (clock() - started))
    return times


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """over / under, round by round."""
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])


def added_ratio(over: Sequence[float], under: Sequence[float], *, floor: Sequence[float]) -> Spread:
    """(over - floor) / (under - floor) of the medians; its spread is that of three thirds of the rounds."""
    thirds = [_added(over[i::3], under[i::3], floor[i::3]) for i in range(3)]
    return Spread(_added(over, under, floor), min(thirds), max(thirds))


def _added(over: Sequence[float], under: Sequence[float], floor: Sequence[float]) -> float:
    base = statistics.median(floor)
    return (statistics.median(over) - base) / (statistics.median(under) - base)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
