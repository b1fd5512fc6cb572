"""The measurements by name.

python -m experiments.bench step [--targets qv,all] [--r 8] [--threads 1] [--rounds 30] [--csv FILE]
python -m experiments.bench overhead runs/demo
"""

import argparse
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments.conf import Conf
from experiments.record import records
from experiments.settings import Train

CONF = Path(__file__).parents[2] / "conf"


def step(options: argparse.Namespace) -> None:
    """A training step against PEFT's, on the default model with its usual batch (16 texts of 48 tokens)."""
    import torch

    from experiments import models
    from experiments.batches import Batch
    from experiments.bench.step import measure, write_table

    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, _, _ = models.load(_default(), kind="classification", n_labels=13)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (16, 48), generator=draw)
    mask = (torch.arange(48)[None] < torch.randint(20, 49, (16, 1), generator=draw)).long()
    batch = Batch(ids, mask, torch.randint(0, 13, (16,), generator=draw)).to(device)
    conf = Conf(CONF)
    chosen = {name: conf.read("variant", name) for name in ("lora", "dora", "adalora")}
    rows = []
    for targets in options.targets.split(","):
        rows += measure(
            model.to(device), batch, variant_options=chosen, r=options.r, targets=targets,
            precision=options.precision, rounds=options.rounds,
        )  # fmt: skip
    write_table(rows, options.csv)


def _default() -> Any:
    """What loading reads of a spec, for the default model."""
    options = {key: value for key, value in Conf(CONF).read("model", "minilm").items() if key != "ranges"}
    return SimpleNamespace(model="minilm", model_options=options, train=Train())


def overhead(options: argparse.Namespace) -> None:
    """Seconds that each run of a study cost beyond loading, training and evaluation."""
    costs = [(r["run_id"], r["cost"]) for r in records(options.study) if "cost" in r]
    if not costs:
        raise SystemExit(f"no records with costs in {options.study}; run a study first, e.g. make demo")
    for run_id, cost in costs:
        parts = "  ".join(
            f"{name} {cost[f'{name}_seconds']:7.2f}" for name in ("load", "train", "evaluate", "harness")
        )
        print(f"{run_id:60s} {parts}")
    print(f"harness, median: {statistics.median(c['harness_seconds'] for _, c in costs):.3f} s")


def main() -> None:
    """Parse the command and measure."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    each = commands.add_parser("step", help=step.__doc__)
    each.add_argument("--targets", default="qv,all", help="presets to measure, by commas")
    each.add_argument("--r", type=int, default=8)
    each.add_argument("--threads", type=int, default=1)
    each.add_argument("--rounds", type=int, default=30)
    each.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    each.add_argument("--csv", type=Path)
    each.set_defaults(measure=step)
    each = commands.add_parser("overhead", help=overhead.__doc__)
    each.add_argument("study", type=Path)
    each.set_defaults(measure=overhead)
    options = parser.parse_args()
    options.measure(options)


if __name__ == "__main__":
    main()
