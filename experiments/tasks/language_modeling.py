"""language_modeling: plain text, every token of it predicted from those before it.

In training, texts are packed into rows of the full length; a token attends only to tokens of its own text,
since positions begin anew with each (transformers makes the mask from them). A text longer than a row is cut
into windows that share one token, so that each token is a target once. In evaluation a text is an example,
whatever the number of its windows:

    perplexity    exp(sum of nats / number of tokens)
    bits per byte sum of nats / (ln 2 * bytes of UTF-8)
"""

import math
from typing import Any

from experiments.data._tasks import Encoded, RawTask, Task
from experiments.errors import UserError
from experiments.tasks._base import IGNORE, Kind, Outputs, Scores, Tokens


class LanguageModeling(Kind):
    """Cross-entropy over all tokens of a text."""

    name = "language_modeling"
    head = "causal"
    metrics = ("perplexity", "bits_per_byte")

    def tokens(
        self, raw: RawTask, split: str, tokenizer: Any, limit: int, *, decoder_start: int | None = None
    ) -> Tokens:
        """Packed rows for training, windows of single texts for evaluation."""
        rows = raw.splits[split]
        if decoder_start is not None:
            raise UserError(
                "an encoder-decoder has no likelihood for plain text. Give a decoder, such as gpt2"
            )
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise UserError(
                f"the tokenizer of this model ({type(tokenizer).__name__}) has neither a beginning- nor an "
                "end-of-sequence token, so a text's first token has nothing before it. Give another model"
            )
        ids = tokenizer(list(rows.texts), add_special_tokens=False, verbose=False)["input_ids"]
        windows, example = [], []
        for number, text in enumerate(ids):
            whole = [start, *text]
            for first in range(0, len(text), limit - 1):
                windows.append(whole[first : first + limit])
                example.append(number)
        if split == self.learns:
            return _packed(windows, limit)
        return Tokens(
            tuple(f"{rows.ids[e]}/{i}" for i, e in enumerate(example)),
            windows,
            [[IGNORE, *window[1:]] for window in windows],
            meta={
                "example": example,
                "id": list(rows.ids),
                "bytes": [len(text.encode("utf-8", "surrogatepass")) for text in rows.texts],
            },
        )

    def score(self, task: Task, encoded: Encoded, outputs: Outputs) -> Scores:
        """`score` is the example's share of the primary metric; for perplexity, of the loss per token."""
        count = len(encoded.examples)
        nats, tokens = [0.0] * count, [0] * count
        for example, total, targets in zip(
            encoded.meta["example"], outputs.total.double().tolist(), outputs.targets.tolist(), strict=True
        ):
            nats[example] += total
            tokens[example] += int(targets)
        sizes = encoded.meta["bytes"]
        per_token, per_byte = sum(nats) / sum(tokens), sum(nats) / math.log(2) / sum(sizes)
        values = {"loss": per_token, "perplexity": math.exp(min(per_token, 700)), "bits_per_byte": per_byte}
        unit = math.log(2) * sum(sizes) if task.metric == "bits_per_byte" else sum(tokens)
        columns: dict[str, list[Any]] = {
            "label": [None] * count,
            "prediction": [None] * count,
            "score": [n * count / unit for n in nats],
            "loss": [n / max(1, t) for n, t in zip(nats, tokens, strict=True)],
            "tokens": tokens,
            "bytes": sizes,
            "statistics/perplexity": [[n, float(t)] for n, t in zip(nats, tokens, strict=True)],
        }
        return Scores(values, columns)


def _packed(windows: list[list[int]], limit: int) -> Tokens:
    """Windows laid into rows of `limit` tokens, each into the first row with room among the last few."""
    rows: list[list[list[int]]] = []
    room: list[int] = []
    for window in windows:
        near = range(max(0, len(rows) - 64), len(rows))
        fits = next((i for i in near if room[i] >= len(window)), None)
        if fits is None:
            rows.append([])
            room.append(limit)
            fits = len(rows) - 1
        rows[fits].append(window)
        room[fits] -= len(window)
    return Tokens(
        tuple(f"packed-{i}" for i in range(len(rows))),
        [[token for window in row for token in window] for row in rows],
        [[target for window in row for target in [IGNORE, *window[1:]]] for row in rows],
        extra={"position_ids": [[place for window in row for place in range(len(window))] for row in rows]},
    )


KIND = LanguageModeling()
