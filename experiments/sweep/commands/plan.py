"""What a command would do, what it would cost, what it can show, and whether it is fair. Starts nothing.

python -m experiments.sweep plan -m variant=dora,lora r=4,8,16 seed=0,1,2 study=demo

Takes the words that stand behind run.py.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.errors import UserError, plural
from experiments.files import replacing
from experiments.record import no_runs, run_folders
from experiments.sweep.resources import environment

ROOT = Path("runs")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs="*", metavar="key=value", help="as behind run.py; also +experiment=NAME"
    )
    parser.add_argument("-m", "--multirun", action="store_true", help="may be there, as behind run.py")
    parser.add_argument("-cd", "--config-dir", type=Path, help="a folder of more configuration")
    parser.add_argument(
        "--pilot", type=Path, metavar="STUDY", help="take the SD between seeds from these runs"
    )
    parser.add_argument("--sd", type=float, help="the SD of paired differences, if there is no pilot")
    parser.add_argument(
        "--speed", type=float, metavar="GFLOPS", help="of a worker, where nothing was measured"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write a line per cell")
    parser.add_argument("--json", action="store_true", help="print all of it for programs instead")


def main(options: argparse.Namespace) -> None:
    from rich.console import Console

    from experiments.config.groups import CONF, Conf
    from experiments.config.messages import plain_errors
    from experiments.sweep import packs
    from experiments.sweep.preview.expected import expected
    from experiments.sweep.preview.facts import Facts
    from experiments.sweep.preview.fairness import findings
    from experiments.sweep.preview.forecast import forecast
    from experiments.sweep.preview.table import page

    if options.speed is not None and not options.speed > 0:
        raise UserError(f"--speed takes a number above 0, not {options.speed:g}")
    if options.pilot is not None and not any(run_folders(options.pilot)):
        raise no_runs(options.pilot)
    if options.csv is not None and not options.csv.absolute().parent.is_dir():
        raise UserError(f"--csv {options.csv}: there is no folder {options.csv.parent}; make it first")
    folder = ["--config-dir", str(options.config_dir)] if options.config_dir else []
    with plain_errors():
        requested = expected([*folder, *options.words], conf=CONF, root=ROOT)
    facts = Facts()
    speed = None if options.speed is None else options.speed * 1e9
    found = forecast(requested.specs, facts, root=ROOT, workers=requested.workers, speed=speed)
    notes = (*requested.notes, *packs.foreseen(found.plan.todo, ROOT, requested.pack, found.workers))
    compared = [row for row in found.rows if row.spec.phase != "tune"]
    seeds = sorted({row.seeds for row in compared})
    power = _power(options, seeds, _comparisons([row.spec for row in compared])) if seeds else None
    conf = Conf(CONF, *([options.config_dir] if options.config_dir else []))
    runs = [spec for spec, _ in (*found.plan.done, *found.plan.todo) if spec.phase != "tune"]
    unfair = findings(runs, _known(facts, conf))
    if options.csv:
        _write(options.csv, [row.as_dict() for row in found.rows])
    if options.json:
        print(
            json.dumps(
                {
                    "runs": len(found.plan.todo) + len(found.plan.done),
                    "done": len(found.plan.done),
                    "duplicates": found.plan.duplicates,
                    "workers": found.workers,
                    "estimate": {
                        "seconds": found.seconds,
                        "memory_bytes": found.memory,
                        "disk_bytes": found.disk,
                    },
                    "estimated_from": found.sources,
                    "notes": notes,
                    "smallest_effect": power,
                    "findings": [asdict(finding) for finding in unfair],
                    "cells": [row.as_dict() for row in found.rows],
                },
                indent=1,
            )
        )
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(page(found, unfair, _effects(power, seeds) if power else [], notes))


def _known(facts: Any, conf: Any) -> Any:
    """What the checks of fairness may use: sizes, the variants' own rates, and what those were chosen for."""
    from experiments.config.resolve import resolve
    from experiments.sweep.preview.fairness import Known

    own = {name: conf.read("variant", name) for name in conf.choices("variant")}
    return Known(
        count=facts.count,
        rank_for=facts.rank_for,
        default_lr={name: float(content["lr"]) for name, content in own.items()},
        recipe=resolve(conf.compose(conf.defaults()), choices=conf.defaults()),
    )


def _comparisons(specs: Sequence[Any]) -> int:
    """How many overall comparisons a report will make: one per variant and setting, over all ranks."""
    from experiments.sizing.match import REFERENCE

    names = [spec.variant for spec in specs]
    reference = REFERENCE if REFERENCE in names else names[0]
    made = {
        (s.variant, s.axes, s.options, s.targets, s.model_key(), s.data_key())
        for s in specs
        if s.variant != reference
    }
    return max(len(made), 1)


def _power(options: argparse.Namespace, seeds: Sequence[int], comparisons: int) -> dict[str, Any]:
    """The smallest effects by number of seeds, computed by `analysis.power` in a process of its own."""
    words = ["--seeds", ",".join(map(str, seeds)), "--json", "--comparisons", str(comparisons)]
    words += ["--pilot", str(options.pilot)] if options.pilot is not None else []
    words += ["--sd", str(options.sd)] if options.sd is not None else []
    done = subprocess.run(
        [sys.executable, "-m", "analysis.power", *words], env=environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(done.stderr.strip().removeprefix("error: "))
    return json.loads(done.stdout)


def _effects(power: dict[str, Any], seeds: Sequence[int]) -> list[str]:
    """Those in words."""
    family = power["comparisons"]
    adjusted = {
        n: f"; {least:.4f} to stand up to Holm's adjustment for {family} comparisons" if family > 1 else ""
        for n, least in power["detectable_adjusted"].items()
    }
    lines = [
        f"{n} seeds show a difference of {power['detectable'][str(n)]:.4f} between two variants (power 0.8)"
        f"{adjusted[str(n)]}"
        if str(n) in power["detectable"]
        else f"{plural(n, 'seed')} cannot give a verdict"
        for n in seeds
    ]
    needed = [f"{float(effect):g} needs {text}" for effect, text in power["needed"].items()]
    rests = f"SD of paired differences {power['sd']:.4g}, {power['source']}; {power['counted']}"
    return [*lines, f"{', '.join(needed)}; {rests}"]


def _write(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
