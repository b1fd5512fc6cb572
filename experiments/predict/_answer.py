"""What the runs of a pack say at once: classes with their probabilities, values, or completions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from experiments import data
from experiments.artifacts import Base, Source
from experiments.data import Turn
from experiments.errors import UserError
from experiments.predict import Answer
from experiments.training import generation
from experiments.training.batch import by_length
from experiments.training.generation import Settings
from experiments.training.loop import autocast


@torch.no_grad()
def classify(
    model: Any, base: Base, pack: Sequence[Source], texts: Sequence[str], *, size: int
) -> list[list[Answer]]:
    """One list of answers per run, in the order of the texts.

    Args:
        model: The attached model of the pack, in evaluation mode.
        base: What it stands on.
        pack: The runs, in the order of the model's run axis; they share classes, length and precision.
        texts: What to classify.
        size: Texts of each run in a forward pass.
    """
    labels, runs = pack[0].labels, len(pack)
    encoded = data.encode_texts(texts, base.tokenizer, pack[0].max_length)
    outputs = int(pack[0].outputs or 0)
    squash = _SQUASH.get(pack[0].task, _SQUASH["classification"])
    found = torch.zeros(runs, len(texts), outputs)
    for rows, length in by_length(encoded, size=size):
        ids, mask = (t[rows, :length].repeat(runs, 1) for t in (encoded.input_ids, encoded.attention_mask))
        with autocast(pack[0].precision, base.device):
            logits = model(input_ids=ids.to(base.device), attention_mask=mask.to(base.device)).logits
        found[:, rows] = squash(logits.float()).view(runs, len(rows), -1).cpu()
    if not labels:  # values
        return [[Answer(repr(value)) for (value,) in run] for run in found.tolist()]
    if pack[0].task == "multilabel":
        return [[_several(labels, row) for row in run] for run in found.tolist()]
    return [
        [Answer(labels[row.index(max(row))], dict(zip(labels, row, strict=True))) for row in run]
        for run in found.tolist()
    ]


def _several(labels: Sequence[str], row: list[float]) -> Answer:
    scores = dict(zip(labels, row, strict=True))
    return Answer(", ".join(label for label, score in scores.items() if score > 0.5), scores)


_SQUASH = {
    "classification": lambda logits: logits.softmax(-1),
    "multilabel": lambda logits: logits.sigmoid(),
    "regression": lambda logits: logits,
}


def generate(
    model: Any,
    base: Base,
    pack: Sequence[Source],
    conversations: Sequence[tuple[Turn, ...]],
    *,
    size: int,
    longest: int,
    spaced: bool = False,
) -> list[list[Answer]]:
    """One list of completions per run, in the order of the prompts.

    Args:
        model: The attached model of the pack, in evaluation mode.
        base: What it stands on.
        pack: The runs, in the order of the model's run axis.
        conversations: All turns but the one to be written.
        size: Prompts of each run in a batch.
        longest: How many tokens a completion may have.
        spaced: Whether the runs learned completions that begin with white space.

    Raises:
        UserError: a prompt leaves no room for a completion.
    """
    tokenizer = base.tokenizer
    prompts = data.encode_prompts(conversations, tokenizer, spaced=spaced)
    limit = base.info.max_length
    for number, prompt in enumerate(prompts, 1):
        if not prompt or (limit is not None and len(prompt) + longest > limit):
            raise UserError(
                f"prompt {number} has {len(prompt)} tokens, and a completion may have {longest}: expected at "
                f"least 1, and at most {limit} together, which is what the model takes. Shorten it, "
                "or give a smaller --max-new-tokens"
            )
    answers = generation.generate(
        model,
        prompts,
        tokenizer,
        replace(Settings.of(pack[0].settings), max_new_tokens=longest),
        runs=len(pack),
        precision=pack[0].precision,
        size=size,
    )
    return [[Answer(text) for text in run] for run in answers]
