"""python -m analysis.power --seeds 3,5,10: the smallest difference that so many paired seeds can show.

Asked before a study: with power 0.8, at p < .05, two-sided. What sets paired seeds apart is their standard
deviation (SD), taken from a pilot study where there is one:

    several variants    the SD of the seeds' differences to the baseline, pooled over all comparisons
    one variant         sqrt(2) times the SD between seeds, as if the seeds of two variants had nothing in
                        common; pairing makes it smaller, so this is careful

Verdicts are adjusted for the number of comparisons that a study makes (Holm), one per variant and setting:
with `--comparisons 4` also the difference is told that every one of four would show.

A pilot of several variants whose predictions are kept also says how much the choice of the test examples
leaves open, which more seeds do not mend: it is counted, as the report counts it, for a test set of the same
size. Without it only seeds count, and the report may need more.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis import stats
from analysis.compare.pairs import Paired, check_baseline, paired, pairs
from analysis.runs.cells import cells as cells_of
from analysis.runs.load import Study, read
from analysis.runs.rows import each
from analysis.stats import Spread
from experiments.errors import UserError, report_errors

DEFAULT_SD = 0.01
TARGETS = (0.005, 0.01, 0.02)  # differences that people ask for


def pilot(study: Study, *, baseline: str) -> tuple[Spread, str]:
    """The spread that a study shows, and its source.

    UserError where no cell has two completed seeds or no run is of the baseline.
    """
    cells = cells_of(study)
    check_baseline(study, cells, baseline)
    found = [paired(pair, study) for pair in pairs(cells, baseline)[0] if not pair.over_ranks]
    found = [one for one in found if len(one.seeds) > 1]
    if found:
        what = f"{len(found)} comparison{'s' * (len(found) > 1)} with {baseline} in {study.folder}"
        spread = Spread(pooled_sd([one.by_seed for one in found]), *_examples(found))
        return spread, f"pooled over {what}"
    alone = [
        [study.scores[run] for run in row["by_seed"].values()]
        for row in each(cells)
        if len(row["by_seed"]) > 1
    ]
    if not alone:
        raise UserError(
            f"{study.folder} cannot serve as a pilot: none of its cells has two completed seeds. Run one "
            "cell with several, python run.py +experiment=noise_floor, or state the SD yourself with --sd"
        )
    what = f"{len(alone)} cell{'s' * (len(alone) > 1)} of {study.folder}"
    return Spread(float(np.sqrt(2)) * pooled_sd(alone)), f"sqrt(2) times that between the seeds of {what}"


def _examples(found: Sequence[Paired]) -> tuple[float, int]:
    """The squared standard error that test examples leave, a mean, and the fewest of them; or zeros."""
    known = [
        stats.two_way(one.by_example, step=one.step)
        for one in found
        if one.by_example is not None and one.by_example.shape[1] > 1
    ]
    if not known:
        return 0.0, 0
    return float(np.mean([one.noise.examples for one in known])), min(one.n_examples for one in known)


def pooled_sd(sets: Sequence[Sequence[float] | np.ndarray]) -> float:
    """The SD within sets of at least two values, each weighted by its degrees of freedom."""
    squares = sum(float(np.square(np.asarray(x) - np.mean(x)).sum()) for x in sets)
    return float(np.sqrt(squares / sum(len(x) - 1 for x in sets)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.power",
        description="The smallest difference that paired seeds can show, with power 0.8.",
    )
    parser.add_argument("--seeds", default="3,5,8,10", help="numbers of seeds (default: 3,5,8,10)")
    parser.add_argument("--pilot", type=Path, help="a study to take the SD of paired differences from")
    parser.add_argument("--sd", type=float, help=f"that SD, if there is no pilot (default: {DEFAULT_SD})")
    parser.add_argument("--baseline", default="lora", help="of the pilot (default: lora)")
    parser.add_argument(
        "--comparisons",
        type=int,
        default=1,
        help="that the study makes, for which p is adjusted (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    return report_errors(lambda: _show(options))


def _show(options: argparse.Namespace) -> None:
    seeds, family = _numbers(options.seeds), options.comparisons
    if family < 1:
        raise UserError(f"--comparisons takes a whole number above 0, not {family}")
    spread, source = _spread(options)
    shown = {n: stats.detectable(n, spread) for n in seeds if n >= stats.FEWEST_SEEDS}
    least = stats.ALPHA / family
    adjusted = {n: stats.detectable(n, spread, alpha=least) for n in shown}
    fewest = {effect: stats.seeds_needed(effect, spread) for effect in TARGETS}
    needed = {effect: f"{n} seeds" if n else beyond(effect, spread) for effect, n in fewest.items()}
    if options.json:
        print(
            json.dumps(
                {
                    **spread._asdict(),
                    "source": source,
                    "counted": counted(spread.n_examples),
                    "detectable": shown,
                    "comparisons": family,
                    "detectable_adjusted": adjusted,
                    "seeds_needed": fewest,
                    "needed": needed,
                }
            )
        )
        return
    print(f"SD of paired differences: {spread.sd:.4g} ({source}); {counted(spread.n_examples)}")
    for n in seeds:
        text = f"{shown[n]:.4g}" if n in shown else f"no verdict below {stats.FEWEST_SEEDS} seeds"
        more = f"; {adjusted[n]:.4g} as one of {family} comparisons" if n in shown and family > 1 else ""
        print(f"  {n} seeds: {text}{more}")
    for effect, text in needed.items():
        print(f"  to show {effect:g}: {text}")


def beyond(effect: float, spread: Spread) -> str:
    """What shows an effect that a thousand seeds do not: more test examples, if enough of them would."""
    alone = stats.seeds_needed(effect, spread._replace(examples=0.0))
    return "more than 1000 seeds" if alone is None else "a larger test set"


def counted(n_examples: int) -> str:
    """Whether test examples count as noise, in words."""
    if not n_examples:
        return "the noise of the test examples is not known and comes on top"
    return f"the noise of {n_examples:,} test examples is counted"


def _spread(options: argparse.Namespace) -> tuple[Spread, str]:
    if options.pilot is not None and options.sd is not None:
        raise UserError("--pilot and --sd are two answers to one question: give one of them")
    if options.pilot is not None:
        return pilot(read(options.pilot), baseline=options.baseline)
    if options.sd is None:
        return Spread(DEFAULT_SD), "assumed; --pilot runs/STUDY measures it"
    if not 0 < options.sd < float("inf"):
        raise UserError(f"--sd takes a number above 0, not {options.sd:g}")
    return Spread(options.sd), "as stated"


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"--seeds takes whole numbers with commas between them, as 3,5,10, not {text!r}")
    return sorted({int(part) for part in parts})


if __name__ == "__main__":
    sys.exit(main())
