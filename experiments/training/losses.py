"""The losses of a batch, one number per row, for each kind of task."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100  # the target at places where no loss is due


class RowLosses(NamedTuple):
    """Per row: the summed loss, over how many targets it was summed, and the predicted class (-1: none)."""

    total: Tensor  # (rows,) float32
    targets: Tensor  # (rows,)
    predicted: Tensor  # (rows,)


def count_targets(labels: Tensor) -> Tensor:
    """How many targets each row has: 1 for a class label, the number of completion tokens for text.

    (rows,)
    """
    return torch.ones_like(labels) if labels.dim() == 1 else (labels[:, 1:] != IGNORE).sum(1)


def row_losses(logits: Tensor, labels: Tensor) -> RowLosses:
    """Cross-entropy by row.

    Logits (rows, classes) with labels (rows,), or (rows, T, vocabulary) with labels (rows, T).
    """
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
