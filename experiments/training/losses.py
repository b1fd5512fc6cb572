"""The losses of a batch, one number per row, by the form of its labels.

(rows,) int           class numbers                  logits (rows, C)      cross-entropy
(rows, C) float       1 where a class is right       logits (rows, C)      binary cross-entropy, summed
(rows,) float         values                         logits (rows, 1)      squared error
(rows, T) int         tokens, -100 where no loss     logits (rows, T, V)   cross-entropy of the next token
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100  # the target at places where no loss is due


class RowLosses(NamedTuple):
    """Per row: the summed loss, over how many targets it was summed, and what was predicted."""

    total: Tensor  # (rows,) float32
    targets: Tensor  # (rows,)
    # (rows,) class numbers or values, (rows, C) logits of many classes; of tokens in evaluation whether each
    # target is the most likely one, in training -1
    predicted: Tensor


def count_targets(labels: Tensor) -> Tensor:
    """How many targets each row has, (rows,): its tokens with a loss, else 1."""
    if labels.dim() == 1 or labels.is_floating_point():
        return torch.ones(len(labels), dtype=torch.long, device=labels.device)
    return (labels[:, 1:] != IGNORE).sum(1)


def row_losses(logits: Tensor, labels: Tensor) -> RowLosses:
    """Loss, targets and prediction of each row."""
    if labels.is_floating_point():
        return _of_numbers(logits.float(), labels)
    if labels.dim() == 1:
        total = F.cross_entropy(logits.float(), labels, reduction="none")
        return RowLosses(total, count_targets(labels), logits.argmax(-1))
    # one row at a time: the float32 logits of a whole batch can be larger than the model
    total = torch.stack(
        [
            F.cross_entropy(row[:-1].float(), label[1:], ignore_index=IGNORE, reduction="sum")
            for row, label in zip(logits, labels, strict=True)
        ]
    )
    return RowLosses(total, count_targets(labels), torch.full_like(labels[:, 0], -1))


def _of_numbers(logits: Tensor, labels: Tensor) -> RowLosses:
    if labels.dim() == 1:
        values = logits[:, 0]
        return RowLosses((values - labels) ** 2, count_targets(labels), values)
    total = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(1)
    return RowLosses(total, count_targets(labels), logits)
