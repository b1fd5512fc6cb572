"""Answers of several runs as a pack, against transformers.generate for each of them.

python -m experiments.bench generate [--new 16,40] [--dataset gsm8k --path FILE_OR_FOLDER] [--csv FILE]

All take turns in one process, and every answer must be the same text. Both hold --size prompts of each run at
a time: a pack of four holds four times the rows.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from experiments.bench.commands._common import add_completions, at_least, numbers
from experiments.errors import UserError

TARGET = 0.5


def arguments(parser: argparse.ArgumentParser) -> None:
    add_completions(parser)
    parser.add_argument("--runs", type=at_least(2), default=4, help="in the pack (%(default)s)")
    parser.add_argument("--prompts", type=at_least(1), default=8, help="of the test split (%(default)s)")
    parser.add_argument("--size", type=at_least(1), default=8, help="prompts at a time (%(default)s)")
    parser.add_argument(
        "--new", type=numbers(1), default="16,40", help="tokens of an answer, by commas (%(default)s)"
    )
    parser.add_argument("--r", type=at_least(1), default=8, help="rank")
    parser.add_argument("--threads", type=at_least(0), default=1, help="0: as many as torch takes")
    parser.add_argument("--rounds", type=at_least(3), default=3, help="how often each takes its turn")
    parser.add_argument("--csv", type=Path, help="write the table there as well")


def main(options: argparse.Namespace) -> None:
    import torch

    from experiments import data, models
    from experiments.artifacts import named_base
    from experiments.bench import table
    from experiments.bench.turns import Spread, in_turn, ratio
    from experiments.bench.workload import dataset_options
    from experiments.training.generation import Settings
    from variants import RunConfig, attach

    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.process_time if device.type == "cpu" and options.threads == 1 else time.perf_counter
    model, tokenizer, _ = models.load(named_base(options.model), kind="causal")
    dataset = dataset_options(options.dataset) | ({"path": options.path} if options.path else {})
    turns = data.read_options(options.dataset, dataset).splits["test"].turns[: options.prompts]
    if not turns:
        raise UserError(f"--dataset {options.dataset} has no prompts. Take one of completions, such as gsm8k")
    prompts = data.encode_prompts([one[:-1] for one in turns], tokenizer, spaced=True)
    runs = [RunConfig(seed, targets="qv", r=options.r) for seed in range(options.runs)]
    pack = _drawn(attach(models.clone(model), runs, device=device), range(options.runs))
    alone = [
        _drawn(attach(models.clone(model), [run], device=device), [seed]) for seed, run in enumerate(runs)
    ]
    figures = []
    for new in options.new:
        answers: dict[str, Any] = {}

        how = {
            "prompts": prompts, "tokenizer": tokenizer, "settings": Settings(max_new_tokens=new),
            "precision": "fp32", "size": options.size,
        }  # fmt: skip
        own = partial(_write, answers, "pack", [pack], runs=options.runs, **how)
        theirs = partial(_write, answers, "solo", alone, runs=1, by_transformers=True, **how)
        times = in_turn({"pack": own, "solo": theirs}, rounds=options.rounds, warmup=1, clock=clock)
        if answers["pack"] != answers["solo"]:
            raise UserError(f"the answers of {new} tokens differ, so their times cannot be compared")
        print(f"{options.runs * len(prompts)} answers of at most {new} tokens are equal")
        spreads = (Spread.of(times["pack"]), Spread.of(times["solo"]), ratio(times["pack"], times["solo"]))
        figures.append(
            table.Figure("lora", "qv", f"{new} new tokens / transformers'", "ms", *spreads, TARGET)
        )
    lengths = sorted(map(len, prompts))
    title = (
        f"Generation: {options.model}, {options.runs} runs of r = {options.r}, {len(prompts)} prompts of "
        f"{options.dataset} ({lengths[0]} to {lengths[-1]} tokens), {options.size} of each run at a time"
    )
    table.show(figures, title=title, path=options.csv)


def _write(answers: dict[str, Any], name: str, models: Sequence[Any], **how: Any) -> None:
    """Note under a name the answers of every run of the models."""
    from experiments.training.generation import generate

    answers[name] = [texts for model in models for texts in generate(model, **how)]


def _drawn(attached: Any, seeds: Any) -> Any:
    """The model with B drawn for each run by its seed, so that answers differ from the base's."""
    import torch

    for trained in attached.trained:
        if trained.role == "out":
            for row, seed in zip(trained.parameter.data, seeds, strict=True):
                row.copy_(0.02 * torch.randn(row.shape, generator=torch.Generator().manual_seed(seed)))
    return attached.model.eval()
