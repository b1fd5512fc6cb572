"""The losses of a batch, one number per row, by the form of its labels.

(rows,) int           class numbers                  logits (rows, C)      cross-entropy
(rows, C) float       1 where a class is right       logits (rows, C)      binary cross-entropy, summed
(rows,) float         values                         logits (rows, 1)      squared error
(rows, T) int         tokens, -100 where no loss     logits (rows, T, V)   cross-entropy of the next token
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.tasks._base import IGNORE
from experiments.training.batch import Batch, of_tokens

LOGITS = 1 << 24  # of a language model: the most that are held at a time (64 MiB)


class RowLosses(NamedTuple):
    """Per row: the summed loss, over how many targets it was summed, and what was predicted."""

    total: Tensor  # (rows,) float32
    targets: Tensor  # (rows,)
    # (rows,) class numbers or values, (rows, C) logits of many classes; of tokens in evaluation whether each
    # target is the most likely one, in training -1
    predicted: Tensor


def count_targets(labels: Tensor) -> Tensor:
    """How many targets each row has, (rows,): its tokens with a loss, else 1."""
    if not of_tokens(labels):
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


@contextmanager
def hooked(module: nn.Module | None, hook: Callable[..., Any]) -> Iterator[None]:
    """While open, a module's arguments pass through `hook`; nothing for None."""
    handle = None if module is None else module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def run_to_head(
    model: nn.Module, head: nn.Module | None, batch: Batch, **more: Any
) -> tuple[Tensor | None, Tensor]:
    """The hidden states that the map to the vocabulary is given, (rows, T, d), and the model's logits.

    That map makes one token of each row alone. Where it is None or not called there are no hidden states, and
    logits of every token. `more` are further inputs.
    """
    found: list[Tensor] = []

    def take(_: object, given: tuple[Tensor]) -> tuple[Tensor]:
        found.append(given[0])
        return (given[0][:, :1],)

    with hooked(head, take):
        logits = model(**batch.inputs(), **more).logits
    return (found[0] if found else None), logits


@torch.no_grad()
def plain_head(model: nn.Module, batch: Batch) -> nn.Linear | None:
    """The map from hidden states to the vocabulary, if logits are what it gives and nothing is done to them.

    None if the model caps or scales its logits, or if the labels are no tokens. The model is left in
    evaluation mode.
    """
    head = model.get_output_embeddings() if of_tokens(batch.labels) else None
    if not isinstance(head, nn.Linear):
        return None
    given: list[Tensor] = []
    handle = head.register_forward_hook(lambda *found: given.append(found[2]))
    model.eval()
    try:
        logits = model(**batch.map(lambda tensor: tensor[:, :1]).inputs()).logits
    finally:
        handle.remove()
    return head if len(given) == 1 and given[0] is logits else None


def backward_of_tokens(
    model: nn.Module,
    head: nn.Linear,
    batch: Batch,
    scale: Tensor,
    *,
    precision: Callable[[], AbstractContextManager],
    penalty: Tensor | None = None,
) -> Tensor:
    """The loss of each run, (K,), detached; its gradient is added to what the model trains.

    Logits are made where a target is and nowhere else, `LOGITS` at a time, and their gradient at once: of a
    small model they would take more memory than all else, and of a long prompt most of them are of no use.

    Args:
        model: Of K runs.
        head: Its `plain_head`.
        batch: Its labels are tokens.
        scale: (K,); the loss of a run is summed over its targets and divided by its scale.
        precision: The arithmetic of the forward pass.
        penalty: (K,), what else counts into the gradient.
    """
    with precision():
        before, _ = run_to_head(model, head, batch)
    assert before is not None
    labels = batch.labels[:, 1:]
    wanted = labels != IGNORE
    hidden, targets = before[:, :-1][wanted], labels[wanted]
    run = torch.arange(len(labels), device=labels.device) // (len(labels) // len(scale))
    owner = run[:, None].expand_as(labels)[wanted]
    leaf, loss = hidden.detach().requires_grad_(), torch.zeros_like(scale, dtype=torch.float32)
    size = max(1, LOGITS // head.out_features)
    for part, target, of in zip(leaf.split(size), targets.split(size), owner.split(size), strict=True):
        with precision():
            logits = head(part)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        each = F.cross_entropy(logits, target, reduction="none") / scale[of]
        each.sum().backward()
        loss.index_add_(0, of, each.detach().to(loss.dtype))
    roots = [(hidden, leaf.grad)] + ([] if penalty is None else [(penalty.sum(), None)])
    roots = [(root, grad) for root, grad in roots if root.requires_grad]
    torch.autograd.backward([root for root, _ in roots], [grad for _, grad in roots])
    return loss
