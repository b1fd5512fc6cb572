"""What running the model once shows, before a sweep: facts that no name and no list of models tells."""

from typing import Any

import torch

from experiments.tasks import kind_of

TOKENS = 64  # of a language model's text that is tried
_SAME = 1e-3  # of the largest logit: float32 differs by less


@torch.no_grad()
def check_model(model: Any, task: Any) -> tuple[list[str], list[str]]:
    """Whether a model can be trained on a task as it is done here: (problems, notes).

    Args:
        model: The base, in evaluation mode.
        task: The encoded task (`experiments.data.Task`).
    """
    split = task.splits["train"]
    lengths = split.attention_mask.sum(1)
    order = torch.argsort(lengths, descending=True, stable=True)
    rows = order[[0, len(order) // 2]]
    long, short = lengths[rows].tolist()
    ids, mask = split.input_ids[rows], split.attention_mask[rows]
    if kind_of(task.kind).head == "causal":
        if model.config.is_encoder_decoder:
            return [], []
        return _sees_ahead(model, ids[:1, : min(long, TOKENS)]), []
    alone = _logits(model, ids[1:, :short], mask[1:, :short])
    padded = _difference(_logits(model, ids[1:, :long], mask[1:, :long]), alone)
    if short == long or padded < _SAME:
        return [], []
    return [], [
        f"what a {model.config.model_type} says of a text depends on how far it is filled up (by "
        f"{padded:.0%} of the largest logit here): results depend on the other texts of a batch"
    ]


def _sees_ahead(model: Any, ids: torch.Tensor) -> list[str]:
    """Whether other words at the end of a text change what the model says of its beginning."""
    half = ids.shape[1] // 2
    end = ids[:, half:]
    other = torch.cat([ids[:, :half], torch.where(end > 0, end - 1, end + 1)], dim=1)
    change = _difference(*(_logits(model, each, torch.ones_like(each))[:, :half] for each in (other, ids)))
    if half == 0 or change < _SAME:
        return []
    return [
        f"a {model.config.model_type} sees the tokens that it is to predict (other words at the end of a "
        f"text change what it says of the beginning by {change:.0%}), so it cannot be trained on "
        "completions. Give a decoder, such as model=hf model.name=gpt2, or a classification dataset"
    ]


def _logits(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    device = next(model.parameters()).device
    logits: torch.Tensor = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
    return logits.float()


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    if not len(expected.flatten()):
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
