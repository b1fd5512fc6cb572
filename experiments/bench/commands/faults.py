"""Faults put into real runs: how many runs are lost, doubled or end with other bytes.

python -m experiments.bench faults [--count 1000] [--variants lora,full,adalora,lora+dora+adalora] [--seed 0]

The kinds: a worker is killed, is told to stop, sleeps past its lease while another does its run, finds its
checkpoints or its history damaged, finds a finished run edited, or finds the disk full. Exit code 1 if a run
was lost, doubled or differs; its folder is kept then. Variants that are joined by + train as a pack, and each
of its runs is judged.
"""

import argparse
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from experiments.errors import RunError

VARIANTS = "lora,full,adalora,lora+dora+adalora"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=1000, help="faults, at least so many (1000)")
    parser.add_argument("--variants", default=VARIANTS, help=f"by commas, + joins a pack ({VARIANTS})")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")


def main(options: argparse.Namespace) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
    import torch

    from experiments.bench.faults import KINDS, Bench, specs

    torch.set_num_threads(1)  # this process is forked: it must have no threads
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    draw = random.Random(options.seed)
    benches = {
        name: Bench(root / name, spec) for name, spec in specs(root, options.variants.split(",")).items()
    }
    for name, bench in benches.items():
        one, two = bench.undisturbed.values()
        apart = one != two
        print(f"{name}: {bench.boundaries} boundaries, 1 and 2 threads {'differ' if apart else 'agree'}")
    injected: Counter[str] = Counter()
    packed = 0
    bad: Counter[str] = Counter()
    started, trial = time.monotonic(), 0
    while injected.total() < options.count:
        kind, (name, bench) = KINDS[trial % len(KINDS)], draw.choice(sorted(benches.items()))
        folder = root / name / f"{trial}-{kind}"
        faults = bench.inject(kind, folder, draw)
        injected[kind] += faults
        packed += faults if len(bench.specs) > 1 else 0
        verdict = bench.verdict(folder)
        if verdict is None:
            shutil.rmtree(folder)
        else:
            bad[verdict] += 1
            print(f"{verdict}: {folder}", flush=True)
        trial += 1
        if trial % 50 == 0:
            print(
                f"{injected.total()} faults in {trial} trials, {time.monotonic() - started:.0f} s", flush=True
            )
    print(", ".join(f"{kind} {number}" for kind, number in sorted(injected.items())))
    verdicts = ", ".join(f"{bad[kind]} {kind}" for kind in ("lost", "doubled", "differing"))
    print(f"{injected.total()} faults, {packed} of them in packs, in {trial} trials: {verdicts}")
    if bad:
        raise RunError(f"{bad.total()} trials did not end as undisturbed ones do; see {root}")
    shutil.rmtree(root)
