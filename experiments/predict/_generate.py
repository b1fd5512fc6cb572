"""Greedy completions by every run of a pack at once: the same prompts once per run, padded on the left."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from experiments import data
from experiments.artifacts import Base, Source
from experiments.data import Turn
from experiments.errors import UserError
from experiments.predict import Answer
from experiments.training.loop import autocast


@torch.no_grad()
def generate(
    model: Any,
    base: Base,
    pack: Sequence[Source],
    conversations: Sequence[tuple[Turn, ...]],
    *,
    size: int,
    longest: int,
) -> list[list[Answer]]:
    """One list of completions per run, in the order of the prompts.

    Args:
        model: The attached model of the pack, in evaluation mode.
        base: What it stands on.
        pack: The runs, in the order of the model's run axis.
        conversations: All turns but the one to be written.
        size: Prompts of each run in a batch.
        longest: How many tokens a completion may have.

    Raises:
        UserError: a prompt leaves no room for a completion.
    """
    tokenizer = base.tokenizer
    prompts = data.encode_prompts(conversations, tokenizer)
    limit = base.info.max_length
    for number, prompt in enumerate(prompts, 1):
        if not prompt or (limit is not None and len(prompt) + longest > limit):
            raise UserError(
                f"prompt {number} has {len(prompt)} tokens, and a completion may have {longest}: expected at "
                f"least 1, and at most {limit} together, which is what the model takes. Shorten it, "
                "or give a smaller --max-new-tokens"
            )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # like lengths together
    found: list[list[Answer]] = [[Answer("")] * len(prompts) for _ in pack]
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        ids, mask = _left_padded([prompts[i] for i in rows], tokenizer.pad_token_id or 0)
        with autocast(pack[0].precision, base.device), _plain_config(model):
            out = model.generate(
                input_ids=ids.repeat(len(pack), 1).to(base.device),
                attention_mask=mask.repeat(len(pack), 1).to(base.device),
                max_new_tokens=longest,
                do_sample=False,
                use_cache=True,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        texts = tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        for k in range(len(pack)):
            for i, text in zip(rows, texts[k * len(rows) : (k + 1) * len(rows)], strict=True):
                found[k][i] = Answer(text)
    return found


@contextlib.contextmanager
def _plain_config(model: Any) -> Iterator[None]:
    """Without the base's generation config, whose penalties and bans fill in what a call leaves open."""
    from transformers import GenerationConfig

    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def _left_padded(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, (n, T): every prompt ends where the completions begin."""
    length = max(map(len, prompts))
    ids = torch.full((len(prompts), length), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    return ids, mask
