"""choice: which of several options comes after a prompt, by their likelihood; any number of options.

Trained on the right option as a completion. An option's score is its log-likelihood given the prompt, without
the end-of-sequence token that training teaches; three rules compare options of different lengths:

    accuracy                 the sum over its tokens
    accuracy_per_token       their mean
    accuracy_per_character   the sum over the number of its characters
"""

from typing import Any

from experiments.data._chat import render
from experiments.data._tasks import Encoded, RawTask, Task
from experiments.errors import UserError
from experiments.tasks._base import IGNORE, Outputs, Scores, Tokens
from experiments.tasks.completion import Conversational

RULES = ("accuracy", "accuracy_per_token", "accuracy_per_character")


class Choice(Conversational):
    """The most likely option."""

    name = "choice"
    head = "causal"
    metrics = RULES

    def tokens(
        self, raw: RawTask, split: str, tokenizer: Any, limit: int, *, decoder_start: int | None = None
    ) -> Tokens:
        """A row per example for training; a row per option, side by side, for evaluation."""
        if decoder_start is not None:
            raise UserError("options are compared by a decoder's likelihood. Give a decoder, such as gpt2")
        rows, learning = raw.splits[split], split == self.learns
        wanted = [
            (e, o)
            for e, options in enumerate(rows.options)
            for o in range(len(options))
            if not learning or o == rows.labels[e]
        ]
        turns = [(*rows.turns[e], _last(rows.turns[e], rows.options[e][o])) for e, o in wanted]
        pairs = render(turns, tokenizer)
        if not learning:  # the end token would favour options at which a text may end
            pairs = [(p, c[:-1] if c[-1:] == [tokenizer.eos_token_id] else c) for p, c in pairs]
        cut = sum(len(p) + len(c) > limit for p, c in pairs)
        pairs = [(p[max(0, len(p) + len(c) - limit) :], c[: limit - 1]) for p, c in pairs]  # from the left
        meta: dict[str, list[Any]] = {
            "example": [e for e, _ in wanted],
            "id": list(rows.ids),
            "answer": list(rows.labels),
            "options": [list(options) for options in rows.options],
        }
        return Tokens(
            tuple(rows.ids[e] if learning else f"{rows.ids[e]}/{o}" for e, o in wanted),
            [p + c for p, c in pairs],
            [[IGNORE] * len(p) + c for p, c in pairs],
            cut,
            meta={} if learning else meta,
        )

    def score(self, task: Task, encoded: Encoded, outputs: Outputs) -> Scores:
        """`likelihood` holds the options' log-likelihoods in nats; `loss` is of the right one."""
        meta, count = encoded.meta, len(encoded.examples)
        likelihood: list[list[float]] = [[] for _ in range(count)]
        tokens: list[list[int]] = [[] for _ in range(count)]
        for example, total, targets in zip(
            meta["example"], outputs.total.double().tolist(), outputs.targets.tolist(), strict=True
        ):
            likelihood[example].append(-total)
            tokens[example].append(int(targets))
        right = meta["answer"]
        chosen = {rule: _chosen(rule, likelihood, tokens, meta["options"]) for rule in RULES}
        hits = {
            rule: [float(c == r) for c, r in zip(picks, right, strict=True)] for rule, picks in chosen.items()
        }
        totals = [row[r] for row, r in zip(likelihood, right, strict=True)]
        lengths = [row[r] for row, r in zip(tokens, right, strict=True)]
        values = {"loss": -sum(totals) / sum(lengths)} | {rule: sum(h) / count for rule, h in hits.items()}
        rule = task.metric if task.metric in RULES else RULES[0]
        share = [-t * count / sum(lengths) for t in totals]
        columns = {
            "label": [options[r] for options, r in zip(meta["options"], right, strict=True)],
            "prediction": [options[c] for options, c in zip(meta["options"], chosen[rule], strict=True)],
            "score": hits[rule] if task.metric != "loss" else share,
            "loss": [-t / max(1, n) for t, n in zip(totals, lengths, strict=True)],
            "likelihood": likelihood,
            "tokens": tokens,
        }
        return Scores(values, columns)


def _last(turns: Any, option: str) -> tuple[str, str]:
    """The turn that an option makes after a prompt, or after a chat."""
    return ("completion" if turns[-1][0] == "prompt" else "assistant", option)


def _chosen(
    rule: str, likelihood: list[list[float]], tokens: list[list[int]], options: list[list[str]]
) -> list[int]:
    """The number of the option with the highest score, the first of equals."""
    picks = []
    for row, lengths, texts in zip(likelihood, tokens, options, strict=True):
        by = {"accuracy_per_token": lengths, "accuracy_per_character": [len(text) for text in texts]}
        values = [v / max(1, n) for v, n in zip(row, by.get(rule, [1] * len(row)), strict=True)]
        picks.append(max(range(len(values)), key=values.__getitem__))
    return picks


KIND = Choice()
