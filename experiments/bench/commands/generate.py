"""Answers of several runs as a pack, against transformers.generate for each of them.

python -m experiments.bench generate [--new 16,40] [--dataset gsm8k --path FILE_OR_FOLDER] [--csv FILE]

All take turns in one process, and every answer must be the same text. Both hold --size prompts of each run at
a time: a pack of four holds four times the rows.
"""

import argparse
import time
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
    from experiments.training.generation import Settings, generate
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

        def packed(new: int = new, answers: Any = answers) -> None:
            how = Settings(max_new_tokens=new)
            answers["pack"] = generate(
                pack, prompts, tokenizer, how, runs=options.runs, precision="fp32", size=options.size
            )

        def solo(new: int = new, answers: Any = answers) -> None:
            answers["solo"] = [_transformers(one, prompts, tokenizer, new, options.size) for one in alone]

        times = in_turn({"pack": packed, "solo": solo}, rounds=options.rounds, warmup=1, clock=clock)
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


def _drawn(attached: Any, seeds: Any) -> Any:
    """The model with B drawn for each run by its seed, so that answers differ from the base's."""
    import torch

    for trained in attached.trained:
        if trained.role == "out":
            for row, seed in zip(trained.parameter.data, seeds, strict=True):
                row.copy_(0.02 * torch.randn(row.shape, generator=torch.Generator().manual_seed(seed)))
    return attached.model.eval()


def _transformers(model: Any, prompts: Any, tokenizer: Any, new: int, size: int) -> list[str]:
    """One run's answers by transformers, prompts sorted by length and padded on the left."""
    import torch

    from experiments.training.generation import left_padded

    device = next(model.parameters()).device
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), size):
        part = order[start : start + size]
        ids, mask = left_padded([prompts[i] for i in part], tokenizer.pad_token_id)
        with torch.no_grad():
            found = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=new,
                do_sample=False,
                use_cache=True,
                repetition_penalty=1.0,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )[:, ids.shape[1] :]
        for place, text in zip(part, tokenizer.batch_decode(found, skip_special_tokens=True), strict=True):
            texts[place] = text
    return texts
