"""Completions by every run of a pack at once, written as the task's evaluation writes them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from experiments import data
from experiments.artifacts import Base, Source
from experiments.data import Turn
from experiments.errors import UserError
from experiments.predict import Answer
from experiments.training import generation
from experiments.training.generation import Settings


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
