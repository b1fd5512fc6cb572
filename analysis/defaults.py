"""python -m analysis.defaults runs/default_lr: the learning rate that validation prefers, for each variant of a sweep.

The test metrics of the sweep are not read. A best rate at the end of what was tried is marked: the true best may lie beyond.
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
    ]  # rate -> mean of the primary metric on validation; failed and diverged runs are worst
    counts: Mapping[float, int]
    best: float

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the lowest or the highest of those tried."""
        return self.best in (min(self.means), max(self.means))


def choose(found: Iterable[Mapping[str, Any]]) -> list[Choice]:
    """The best rate of each variant over all its other settings; a tie goes to the lower rate."""
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
        best = max(means, key=lambda rate: means[rate])
        counts = {rate: len(by_rate[rate]) for rate in means}
        choices.append(Choice(variant, {rate: sign * value for rate, value in means.items()}, counts, best))
    return choices


def table(choices: Sequence[Choice]) -> str:
    """A line per variant: every rate tried with its validation metric, the chosen one in brackets."""
    lines = []
    for c in choices:
        cells = [
            f"[{rate:g}: {v:.3f}]" if rate == c.best else f"{rate:g}: {v:.3f}" for rate, v in c.means.items()
        ]
        edge = "  <- at the edge of what was tried: try further" if c.at_edge and len(c.means) > 1 else ""
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
