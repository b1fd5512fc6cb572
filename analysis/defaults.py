"""python -m analysis.defaults runs/default_lr: a learning rate for each variant, chosen on validation.

One default serves several ranks, and at a fixed alpha the scale alpha/r doubles from r = 8 to r = 4, which
acts like a doubled rate. So the choice is the rate that does best when it and its double are both counted:
the largest minimum of the two. The test metrics of the sweep are not read.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from experiments.errors import UserError
from experiments.record import records


@dataclass(frozen=True)
class Choice:
    """What a sweep over learning rates says of one variant."""

    variant: str
    means: Mapping[
        float, float
    ]  # rate -> mean of the primary metric on validation; a lost run counts as the worst
    counts: Mapping[float, int]
    best: float | None  # None: no rate was tried together with its double

    @property
    def at_edge(self) -> bool:
        """Whether rates beyond those tried might do better."""
        rates = sorted(self.means)
        return self.best is None or self.best == rates[0] or self.best == rates[-2]


def choose(found: Iterable[Mapping[str, Any]]) -> list[Choice]:
    """The choice for each variant, from means over its other settings; a tie goes to the lower rate."""
    values: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    sign = 1
    for record in found:
        primary = record.get("primary", {"metric": "accuracy", "goal": "max"})
        sign = 1 if primary["goal"] == "max" else -1
        value = record.get("metrics", {}).get(f"validation/{primary['metric']}")
        lost = record["status"] != "completed" or value is None
        values[record["spec"]["variant"]][record["spec"]["lr"]].append(
            float("-inf") if lost else sign * value
        )
    choices = []
    for variant, by_rate in sorted(values.items()):
        means = {rate: mean(by_rate[rate]) for rate in sorted(by_rate)}
        worst = {rate: min(means[rate], means[double]) for rate in means if (double := _double(rate, means))}
        best = max(worst, key=lambda rate: worst[rate]) if worst else None
        counts = {rate: len(by_rate[rate]) for rate in means}
        choices.append(Choice(variant, {rate: sign * value for rate, value in means.items()}, counts, best))
    return choices


def _double(rate: float, rates: Iterable[float]) -> float | None:
    """The rate that is twice this one, if it was tried."""
    return next((other for other in rates if abs(other / rate - 2) < 1e-6), None)


def table(choices: Sequence[Choice]) -> str:
    """A line per variant: every rate tried with its validation metric, the chosen one in brackets."""
    lines = []
    for c in choices:
        cells = [
            f"[{rate:g}: {v:.3f}]" if rate == c.best else f"{rate:g}: {v:.3f}" for rate, v in c.means.items()
        ]
        edge = "  <- at the edge of what was tried: try further" if c.at_edge else ""
        runs = "/".join(str(count) for count in sorted(set(c.counts.values())))
        lines.append(f"{c.variant:10s} {runs} runs a rate   {'   '.join(cells)}{edge}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.defaults", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("study", type=Path, help="a study that sweeps lr, e.g. runs/default_lr")
    study = parser.parse_args(arguments).study
    try:
        choices = choose(records(study))
        if not choices:
            raise UserError(f"no records in {study}. Make them first: python run.py +experiment=default_lr")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(choices))
    return 0


if __name__ == "__main__":
    sys.exit(main())
