"""Rows of text into tensors, against the tokenizer's own batch call; and the same recalled from the cache.

python -m experiments.bench data [--dataset gsm8k --path FILE_OR_FOLDER] [--csv FILE]

Both take turns in one process and are measured in its processor time. The tokenizer gets each row as one text
and gives lists of ids and masks; ours reads prompts and completions apart, and makes padded tensors.
"""

import argparse
import time
from pathlib import Path

from experiments.bench.commands._common import add_completions, at_least

TOKENISED, RECALLED = 1.1, 1.0  # the ratio; seconds


def arguments(parser: argparse.ArgumentParser) -> None:
    add_completions(parser)
    parser.add_argument("--rounds", type=at_least(3), default=5, help="how often each takes its turn")
    parser.add_argument("--csv", type=Path, help="write the table there as well")


def main(options: argparse.Namespace) -> None:
    from experiments import data, models
    from experiments.artifacts import named_base
    from experiments.bench import table
    from experiments.bench.turns import Spread, in_turn, ratio
    from experiments.bench.workload import dataset_options
    from experiments.data import _encode

    _, tokenizer, _ = models.load(named_base(options.model), kind="causal")
    chosen = dataset_options(options.dataset) | ({"path": options.path} if options.path else {})
    raw = data.read_options(options.dataset, chosen)
    length = int(chosen["max_length"])
    whole = ["".join(text for _, text in turns) for rows in raw.splits.values() for turns in rows.turns]
    times = in_turn(
        {
            "ours": lambda: _encode.tokenised(raw, tokenizer, length, None),
            "whole": lambda: tokenizer(whole, verbose=False),
        },
        rounds=options.rounds,
        warmup=1,
        clock=time.process_time,
    )
    ours, own = times["ours"], times["whole"]

    def recall() -> None:
        data.forget()
        data.encode(data.read_options(options.dataset, chosen), tokenizer, length)

    again = in_turn({"": recall}, rounds=options.rounds, warmup=1, clock=time.process_time)[""]
    figures = [
        table.Figure("-", "-", "tokenised / the tokenizer's own", "ms", Spread.of(ours), Spread.of(own),
                     ratio(ours, own), TOKENISED),
        table.Figure("-", "-", "recalled / 1 s", "ms", Spread.of(again), Spread.exact(1000.0),
                     ratio(again, [1000.0] * len(again)), RECALLED),
    ]  # fmt: skip
    title = f"Data: {len(whole)} rows of {options.dataset} for {options.model}"
    table.show(figures, title=title, path=options.csv)
