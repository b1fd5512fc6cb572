"""A training step of a pack on a random decoder, against PEFT's steps one by one, the limit, and in memory.

python -m experiments.bench pack_step [--shape 0.1b] [--packs 1,4,8] [--batch 4] [--length 64] [--csv FILE]
"""

import argparse

from experiments.bench.commands._common import add_choices, numbers, some_of, title

DECODERS = ("tiny", "0.1b", "0.5b", "1.5b", "3b", "8b")


def arguments(parser: argparse.ArgumentParser) -> None:
    add_choices(parser, rounds=10, variants=False, shapes=DECODERS)
    parser.set_defaults(batch=4, length=64, targets=["all"])
    known = ("lora", "rslora", "dora")
    parser.add_argument("--variants", type=some_of(known), default="lora", help="the runs take turns")
    parser.add_argument("--packs", type=numbers(1), default="1,4,8", help="sizes, by commas")
    parser.add_argument("--tflops", type=float, help="of the processor, for the limit; default: measured")


def main(options: argparse.Namespace) -> None:
    import os

    import torch

    from experiments.bench import pack, table

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler greets on the terminal otherwise
    if options.threads:
        torch.set_num_threads(options.threads)
    figures = []
    for targets in options.targets:
        setting = pack.Setting(
            options.shape,
            options.variants,
            options.r,
            targets,
            options.batch,
            options.length,
            options.precision,
        )
        rate = options.tflops and options.tflops * 1e12
        figures += pack.measure(setting, options.packs, rounds=options.rounds, rate=rate)
    table.show(figures, title=title("Training step of a pack", options), path=options.csv)
