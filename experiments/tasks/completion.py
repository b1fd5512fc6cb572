"""completion: what comes after a prompt, or the assistant's last message in a chat; loss on that part only.

The primary metric is the loss per token, or one on generated answers (exact_match, bleu, ...) if the dataset
names one: then every example is answered, too. An encoder-decoder reads the prompt and writes the completion.
"""

from collections.abc import Sequence
from typing import Any

from experiments import metrics
from experiments.data._chat import remarks, render
from experiments.data._tasks import Encoded, RawTask, Task
from experiments.tasks._answers import extract, settled
from experiments.tasks._base import IGNORE, Kind, Outputs, Scores, Tokens, parts, scored, statistics


class Conversational(Kind):
    """A kind whose rows are turns of a conversation, rendered by the tokenizer's chat template."""

    def reads(self, tokenizer: Any) -> str:
        """The chat template."""
        return str(tokenizer.chat_template)

    def remarks(self, raw: RawTask, tokenizer: Any) -> list[str]:
        """On the chat template."""
        return remarks([turns for rows in raw.splits.values() for turns in rows.turns], tokenizer)


class Completion(Conversational):
    """Cross-entropy over the completion's tokens."""

    name = "completion"
    head = "causal"
    metrics = ("loss",)
    room = "answers"

    def tokens(
        self, raw: RawTask, split: str, tokenizer: Any, limit: int, *, decoder_start: int | None = None
    ) -> Tokens:
        """Input ids and targets of every conversation that keeps some of its completion."""
        rows = raw.splits[split]
        pairs = render(rows.turns, tokenizer)
        meta = {"reference": [list(r) for r in rows.references] or [[t[-1][1]] for t in rows.turns]}
        if decoder_start is not None:
            return _read_and_write(pairs, rows.ids, meta, limit, decoder_start, tokenizer)
        kept = [i for i, (prompt, _) in enumerate(pairs) if len(prompt) < limit]
        chosen = [pairs[i] for i in kept]
        return Tokens(
            tuple(rows.ids[i] for i in kept),
            [(prompt + completion)[:limit] for prompt, completion in chosen],
            [len(prompt) for prompt, _ in chosen],
            sum(len(prompt) + len(completion) > limit for prompt, completion in chosen),
            meta={name: [column[i] for i in kept] for name, column in meta.items()},
        )

    def generates(self, names: Sequence[str]) -> bool:
        """Whether one of the metrics is on answers."""
        return bool(set(names) & set(metrics.names(self.room)))

    def score(self, task: Task, encoded: Encoded, outputs: Outputs) -> Scores:
        """The split's loss is the mean over tokens; `score` is then the example's share of it.

        With generated answers: `answer` is what was taken out of the text for comparison, `reference` all
        right answers; `score` is the example's part in the primary metric, or whether it is matched exactly
        where that metric is no mean over examples.
        """
        total, targets = outputs.total.double(), outputs.targets.double()
        share = total / targets.mean()  # perplexity counts tokens; the mean of this over examples is the loss
        loss = (outputs.total / outputs.targets.clamp_min(1)).tolist()
        columns: dict[str, list[Any]] = {"label": [None] * len(loss), "prediction": [None] * len(loss)}
        if outputs.answers is None:
            return Scores({"loss": float(share.mean())}, {**columns, "score": share.tolist(), "loss": loss})
        rule = task.settings.get("answer")
        references = [[extract(text, rule) for text in row] for row in encoded.meta["reference"]]
        pairs = zip(outputs.answers, references, strict=True)
        answers = [settled(text, row, rule) for text, row in pairs]
        values = scored(task, answers, references, float(share.mean()))
        other = (
            share.tolist()
            if task.metric == "loss"
            else metrics.per_example("exact_match", answers, references)
        )
        columns = {
            "label": [row[0] for row in encoded.meta["reference"]],
            "prediction": outputs.answers,
            "score": parts(task, answers, references, other),
            "loss": loss,
            "answer": answers,
            "reference": references,
            **statistics(task, answers, references),
        }
        return Scores(values, columns)


def _read_and_write(
    pairs: Sequence[tuple[list[int], list[int]]],
    ids: tuple[str, ...],
    meta: dict[str, list[Any]],
    limit: int,
    start: int,
    tokenizer: Any,
) -> Tokens:
    """For encoder-decoders: both parts have room for `limit` tokens.

    Labels have the form that a decoder's have, the target of place t being the token at t + 1.
    """
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    prompts = [prompt[: limit - len(end)] + end for prompt, _ in pairs]
    written = [[start, *completion][:limit] for _, completion in pairs]
    cut = sum(len(p) + len(end) > limit or 1 + len(c) > limit for p, c in pairs)
    labels = [[IGNORE, *row[1:]] for row in written]
    return Tokens(ids, prompts, labels, cut, {"decoder_input_ids": written}, meta)


KIND = Completion()
