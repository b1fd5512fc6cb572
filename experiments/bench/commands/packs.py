"""A packed sweep against the same runs one by one, and against PEFT and Trainer, a process for each run.

python -m experiments.bench packs [--sweep six|many] [--rounds 3] [--pack auto] [--against solo,peft]

All take turns. six: two variants at three ranks, as many steps as by default. many: 24 runs of 40 steps.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from experiments.bench.commands._common import RUN, timed, write_csv
from experiments.errors import UserError
from experiments.record import records

SWEEPS = {
    "six": {"variant": ("dora", "lora"), "r": ("4", "8", "16")},
    "many": {"variant": ("dora", "lora", "rslora", "loraplus"), "r": ("4", "8", "16"), "seed": ("0", "1")},
}
STEPS = {"six": None, "many": 40}
TARGETS = {("six", "peft"): 0.50, ("many", "peft"): 0.40, ("many", "solo"): 0.70}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sweep", choices=sorted(SWEEPS), default="six")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pack", default="auto", help="as the key of run.py")
    parser.add_argument("--steps", type=int, help="other than the sweep's own")
    parser.add_argument("--against", default="solo,peft", help="by commas")
    parser.add_argument("--workers", default="auto", help="as the key of run.py")
    parser.add_argument("--csv", type=Path)


def main(options: argparse.Namespace) -> None:
    steps = options.steps or STEPS[options.sweep]
    common = [f"train.steps={steps}"] if steps else []
    chosen = options.against.split(",")
    contenders: dict[str, Callable[[], tuple[float, float]]] = {
        "packed": lambda: _sweep(options, common, options.pack),
        "solo": lambda: _sweep(options, common, "off"),
        "peft": lambda: _peft(options.sweep, common),
    }
    unknown = set(chosen) - {"solo", "peft"}
    if unknown:
        raise UserError(f"--against {unknown.pop()!r} is none of solo, peft")
    seconds: dict[str, list[float]] = {name: [] for name in ("packed", *chosen)}
    for _ in range(options.rounds):
        for name, times in seconds.items():
            wall, accuracy = contenders[name]()
            times.append(wall)
            print(f"{name:8s} {wall:8.1f} s, mean test accuracy {accuracy:.4f}", flush=True)
    rows = []
    for name in chosen:
        ratios = [a / b for a, b in zip(seconds["packed"], seconds[name], strict=True)]
        target = TARGETS.get((options.sweep, name))
        middle = statistics.median(ratios)
        goal = "" if target is None else f", target at most {target:g}"
        print(f"packed / {name}: {middle:.3f} ({min(ratios):.3f} to {max(ratios):.3f}){goal}")
        rows.append((options.sweep, steps or "default", name, middle, min(ratios), max(ratios), target or ""))
    write_csv(options.csv, ("sweep", "steps", "against", "ratio", "low", "high", "target"), rows)


def _sweep(options: argparse.Namespace, common: list[str], pack: str) -> tuple[float, float]:
    """Wall seconds of run.py over all runs, its report included, and their mean accuracy."""
    words = [f"{key}={','.join(values)}" for key, values in SWEEPS[options.sweep].items()]
    words += ["study=bench", f"pack={pack}", f"workers={options.workers}", *common]
    with tempfile.TemporaryDirectory() as folder:
        wall, _ = timed([*RUN, *words], folder)
        found = [r["metrics"]["test/accuracy"] for r in records(Path(folder) / "runs" / "bench")]
    return wall, statistics.mean(found)


def _peft(sweep: str, common: list[str]) -> tuple[float, float]:
    """Wall seconds of one process after another, and their mean accuracy."""
    keys = SWEEPS[sweep]
    total, found = 0.0, []
    for values in itertools.product(*keys.values()):
        words = [f"{key}={value}" for key, value in zip(keys, values, strict=True)]
        wall, output = timed([sys.executable, "-m", "experiments.bench.trainer", *words, *common])
        total += wall
        found.append(json.loads(output.splitlines()[-1])["accuracy"])
    return total, statistics.mean(found)
