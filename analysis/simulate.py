"""python -m analysis.simulate: what the verdicts are worth, on studies whose truth is known (`simulated`).

Every study goes through the functions that choose rates (`experiments.protocol`) and that judge real studies
(`compare.luck`, `compare.comparison`, `compare.verdicts`). Some are also written as records and predictions
and read as a report reads them (`through_files`), which has to give the same verdicts.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from analysis import through_files
from analysis.compare.verdicts import judged
from analysis.simulated import Truth, drawn, samples
from experiments.errors import UserError, report_errors


def outcome(truth: Truth, seed: int) -> tuple[float, float, float, float]:
    """Of one study: any false verdict, the first variant found, also over datasets, coverage."""
    table, across = judged(drawn(samples(np.random.default_rng(seed), truth)))
    effects = [truth.effect(v, r) for v, r in zip(table["variant"], table["r"], strict=True)]
    claims = table["verdict"].isin(("better", "worse")).to_numpy()
    false = (claims & (np.sign(table["difference"]) != np.sign(effects))).any()
    found = table["overall"] & (table["variant"] == "v1")
    over = np.nan
    if len(across):
        true = np.array([truth.effect(v, "all" if truth.ranks > 1 else 0.0) for v in across["variant"]])
        wrong = across["verdict"].isin(("better", "worse")) & (np.sign(across["difference"]) != np.sign(true))
        false, over = (
            false or wrong.any(),
            (across.loc[across["variant"] == "v1", "verdict"] == "better").all(),
        )
    cover = (table["ci_low"] <= effects) & (effects <= table["ci_high"])
    better = (table.loc[found, "verdict"] == "better").mean()
    return float(false), float(better), float(over), float(cover[table["overall"]].mean())


ONE, TWO = (0.01, 0.0, 0.0, 0.0, 0.0), (0.02, 0.0, 0.0, 0.0, 0.0)
PLAIN = Truth()
TUNED = {
    "flat, 0.3 points an octave^2": Truth(examples=1300, curvature=0.3),
    "1 point an octave^2": Truth(examples=1300, curvature=1.0),
    "steep, 2 points an octave^2": Truth(examples=1300, curvature=2.0),
    "0.5 points, a cliff 1.5 octaves off": Truth(examples=1300, curvature=0.5, cliff=1.5),
}
KINDS = {
    "no difference": PLAIN,
    "no difference, one variant three times noisier": Truth(noisier=3),
    "no difference, the baseline three times noisier": Truth(noisier=0),
    "one variant better by 1 point": Truth(effects=ONE),
}
SEEDS = (3, 5, 10)
TABLES: dict[str, dict[str, Truth]] = {
    "Tuning luck: six identical variants, 5 rates, 2 tuning seeds, 1 point (SD) per tuning point": {
        f"{name}; ranks: {ranks}, seeds: {seeds}": replace(truth, ranks=ranks, seeds=seeds)
        for name, truth in TUNED.items()
        for ranks in (1, 4)
        for seeds in SEEDS
    },
    "Power: six variants at four ranks, 800 examples, seeds 1 point (SD)": {
        f"{name}; seeds: {seeds}": replace(truth, seeds=seeds)
        for name, truth in KINDS.items()
        for seeds in SEEDS
    }
    | {
        "one variant better by 2 points; seeds: 3": Truth(effects=TWO),
        "three better by 2 points at one rank alone; seeds: 5": Truth(
            seeds=5, effects=(0.02, 0.02, 0.02, 0.0, 0.0), at_ranks=(0,)
        ),
        "one rank, one variant better by 2 points; seeds: 5": Truth(ranks=1, seeds=5, effects=TWO),
        "one rank, no difference, one three times noisier; seeds: 3": Truth(ranks=1, noisier=3),
        "two variants alone, better by 2 points; seeds: 5": Truth(seeds=5, effects=(0.02,)),
    },
    "Four datasets: six variants at four ranks, 800 examples each": {
        "no difference; seeds: 3": Truth(datasets=4),
        "one variant better by 1 point on each; seeds: 3": Truth(datasets=4, effects=ONE),
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.simulate",
        description="Error rates, power and coverage of the verdicts, on simulated studies.",
    )
    parser.add_argument("--studies", type=int, default=250, help="of each kind (default: 250)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument(
        "--through-files", type=int, default=1, help="studies of each kind that go through files (default: 1)"
    )
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    options = parser.parse_args(arguments)
    return report_errors(lambda: _show(options))


def _show(options: argparse.Namespace) -> int:
    if options.studies < 2 or options.jobs < 1:
        raise UserError("--studies takes a whole number above 1, --jobs one above 0")
    with ProcessPoolExecutor(options.jobs) as pool:
        for title, kinds in TABLES.items():
            kinds = {name: truth for name, truth in kinds.items() if options.only in f"{title} {name}"}
            print(f"\n{title}\n" * bool(kinds), end="")
            for name, truth in kinds.items():
                found = list(pool.map(partial(outcome, truth), range(options.studies), chunksize=10))
                print(f"  {name:<70} {_rates(np.array(found))}", flush=True)
        title = "Through files: written as records and predictions, and read as a report reads them"
        kinds = {
            name: truth for name, truth in through_files.KINDS.items() if options.only in f"{title} {name}"
        }
        print(f"\n{title}\n" * bool(kinds and options.through_files), end="")
        wrong = 0
        for name, truth in kinds.items():
            compared = list(
                pool.map(partial(through_files.disagreement, truth), range(options.through_files))
            )
            wrong += sum(study.verdicts for study in compared)
            print(f"  {name:<70} {through_files.text(compared)}\n" * bool(compared), end="", flush=True)
    return int(wrong > 0)


def _rates(found: np.ndarray) -> str:
    """Means with their Monte Carlo errors."""
    n = len(found)
    rate = lambda p: f"{p:.3f} ({np.sqrt(max(p * (1 - p), 0.25 / n) / n):.3f})"  # noqa: E731
    false, better, over, cover = found.mean(axis=0)
    text = f"false verdict {rate(false)}  first variant better {rate(better)}"
    text += "" if np.isnan(over) else f"  over datasets {rate(over)}"
    return f"{text}  coverage {cover:.3f} ({found[:, 3].std(ddof=1) / np.sqrt(n):.3f})"


if __name__ == "__main__":
    sys.exit(main())
