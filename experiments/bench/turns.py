"""Contenders measured in turn, in one process, so that a noisy machine is noisy for all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Times of one contender, one per round, in milliseconds."""

    name: str
    ms: Sequence[float]

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.ms)


@dataclass(frozen=True)
class Ratio:
    """How a figure of merit spread over the rounds: its median and its quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def in_turn(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 3
) -> dict[str, Timing]:
    """Run every contender once per round, the order turned by one each round.

    So none always follows the same.
    """
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warmup + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            _synchronise()
            started = time.perf_counter()
            contenders[name]()
            _synchronise()
            if number >= warmup:
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: Timing(name, ms) for name, ms in times.items()}


def ratio(over: Timing, under: Timing, *, floor: Timing | None = None) -> Ratio:
    """over / under, round by round.

    With a floor, (over - floor) / (under - floor) of the medians, spread by thirds.
    """
    if floor is None:
        return _spread([a / b for a, b in zip(over.ms, under.ms, strict=True)])
    added = [
        (_part(over.ms, i) - _part(floor.ms, i)) / (_part(under.ms, i) - _part(floor.ms, i)) for i in range(3)
    ]
    whole = (over.median - floor.median) / (under.median - floor.median)
    return Ratio(whole, min(added), max(added))


def _part(values: Sequence[float], i: int) -> float:
    """The median of every third round, beginning with round i."""
    return statistics.median(values[i::3])


def _spread(values: Sequence[float]) -> Ratio:
    low, middle, high = statistics.quantiles(values, n=4)
    return Ratio(middle, low, high)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
