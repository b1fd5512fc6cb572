"""What several command lines of the analysis share."""

import argparse
from pathlib import Path


def margin(text: str) -> float:
    """A positive number, for --margin."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number, as 0.01 is")
    return value


def compared(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """The study (or, with `several`, files of results), and how its runs are compared."""
    if several:
        text = "the folder that holds the runs, e.g. runs/demo; with --format, files of results"
        parser.add_argument("study", type=Path, nargs="+", help=text)
    else:
        parser.add_argument("study", type=Path, help="the folder that holds the runs, e.g. runs/demo")
    parser.add_argument("--baseline", default="lora", help="the variant to compare with (default: lora)")
    parser.add_argument(
        "--margin",
        type=margin,
        help="what does not matter, in units of the metric (default: 1%% of the metric's range, as 0.01 of "
        "accuracy or 1 of BLEU; of one without bounds, as a loss, 1%% of the baseline's value)",
    )
    parser.add_argument(
        "--metric",
        help="what judges the runs, e.g. macro_f1, loss or lm_eval/arc_easy/acc (default: the primary one)",
    )
    parser.add_argument("--pool", action="store_true", help="compare across code, versions, hardware, data")
