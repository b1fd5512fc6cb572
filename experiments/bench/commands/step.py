"""A training step against PEFT's, on the default model with its usual batch (16 texts of 48 tokens).

python -m experiments.bench step [--targets qv,all] [--r 8] [--threads 1] [--rounds 30] [--csv FILE]
"""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--targets", default="qv,all", help="presets to measure, by commas")
    parser.add_argument("--r", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--csv", type=Path)


def main(options: argparse.Namespace) -> None:
    import torch

    from experiments import models
    from experiments.batches import Batch
    from experiments.bench.default import default_spec, variant_options
    from experiments.bench.step import measure, write_table

    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, _, _ = models.load(default_spec(), kind="classification", n_labels=13)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (16, 48), generator=draw)
    mask = (torch.arange(48)[None] < torch.randint(20, 49, (16, 1), generator=draw)).long()
    batch = Batch(ids, mask, torch.randint(0, 13, (16,), generator=draw)).to(device)
    rows = []
    for targets in options.targets.split(","):
        rows += measure(
            model.to(device), batch, variant_options=variant_options("lora", "dora", "adalora"), r=options.r,
            targets=targets, precision=options.precision, rounds=options.rounds,
        )  # fmt: skip
    write_table(rows, options.csv)
