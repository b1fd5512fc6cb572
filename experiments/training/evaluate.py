"""What a trained pack scores on a split: metrics, and one row per example."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments import metrics
from experiments.files import replacing
from experiments.training.batch import Batch, by_length, gather
from experiments.training.loop import autocast
from experiments.training.losses import IGNORE, RowLosses, row_losses

LOGITS = 1 << 24  # of a language model: the most that are held at a time (64 MiB)


@dataclass(frozen=True)
class Scores:
    """One run on one split. The lists follow the order of the split's examples."""

    metrics: dict[str, float]  # "accuracy", "loss", ...
    predicted: list[int] | None  # class numbers; None for tasks that are scored by their loss
    score: list[float]  # the example's part in the metric: right or not; for text its share of the loss
    loss: list[float]  # nats; for text the mean over the completion's tokens


@torch.no_grad()
def evaluate(
    model: torch.nn.Module, task, split: str, *, runs: int, precision: str, batch_size: int
) -> list[Scores]:
    """Score every run of the pack on the same examples.

    Args:
        model: The attached model of `runs` runs; it is put into evaluation mode and left there.
        task: The encoded task (`experiments.data.Task`).
        split: "validation" or "test".
        runs: K, the length of the run axis.
        precision: As in training.
        batch_size: Examples per run and forward pass.
    """
    model.eval()
    device = next(model.parameters()).device
    encoded = task.splits[split]
    count = len(encoded.ids)
    total, targets = torch.zeros(runs, count), torch.ones(runs, count)
    predicted = torch.full((runs, count), -1)
    for rows, length in by_length(encoded, size=batch_size):
        batch = _repeat(gather(encoded, rows, length), runs).to(device)
        with autocast(precision, device):
            losses = _losses(model, batch, runs)
        for into, part in ((total, losses.total), (targets, losses.targets), (predicted, losses.predicted)):
            into[:, rows] = part.view(runs, -1).to("cpu", into.dtype)
    return [_scores(task, encoded, total[k], targets[k], predicted[k]) for k in range(runs)]


def _repeat(batch: Batch, runs: int) -> Batch:
    """The same rows once per run, run-major."""
    repeated = (
        t.repeat(runs, *[1] * (t.dim() - 1)) for t in (batch.input_ids, batch.attention_mask, batch.labels)
    )
    return Batch(*repeated)


def _losses(model: torch.nn.Module, batch: Batch, runs: int) -> RowLosses:
    """The losses of each row; for text with logits where a target is and nowhere else, LOGITS at a time.

    Whatever a model does to logits (caps, scales) it does to these: its own forward pass makes them, over one
    token of each run, with the hidden states of targets put in before the map to the vocabulary.
    """
    head = model.get_output_embeddings() if batch.labels.dim() == 2 else None
    found: list[Tensor] = []

    def take(_: object, given: tuple[Tensor]) -> tuple[Tensor]:
        found.append(given[0])
        return (given[0][:, :1],)

    with hooked(head, take):
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    if not found:
        return row_losses(logits, batch.labels)
    [hidden], ids, labels = found, batch.input_ids, batch.labels[:, 1:]
    rows, wanted = len(ids) // runs, labels != IGNORE  # of each run the same
    hidden = hidden[:, :-1][wanted].view(runs, -1, hidden.shape[-1])
    targets, losses = labels[wanted].view(runs, -1), []
    size = max(1, LOGITS // (runs * logits.shape[-1]))
    for part, target in zip(hidden.split(size, dim=1), targets.split(size, dim=1), strict=True):
        with hooked(head, lambda *_, part=part: (part,)):
            logits = model(input_ids=ids[::rows, :1], attention_mask=batch.attention_mask[::rows, :1]).logits
        each = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none")
        losses.append(each.view(runs, -1))
    counts = wanted.sum(1)
    by_row = torch.cat(losses, dim=1).split(counts[:rows].tolist(), dim=1)
    total = torch.stack([loss.sum(1) for loss in by_row], dim=1).flatten()
    return RowLosses(total, counts, torch.full_like(counts, -1))


@contextmanager
def hooked(module: torch.nn.Module | None, hook: Callable[..., Any]) -> Iterator[None]:
    """While open, a module's arguments pass through `hook`; nothing for None."""
    handle = None if module is None else module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def _scores(task, encoded, total, targets, predicted) -> Scores:
    loss = total / targets.clamp_min(1)
    if task.kind == "causal":  # perplexity counts tokens, so the split's loss is the mean over tokens
        total, targets = total.double(), targets.double()
        score = total / targets.mean()  # their mean over examples is that loss
        return Scores({"loss": float(score.mean())}, None, score.tolist(), loss.tolist())
    guesses, truth = predicted.tolist(), encoded.labels.tolist()
    values = {"loss": float(loss.mean())} | metrics.compute(task.metrics, guesses, truth)
    return Scores(
        values, guesses, [float(g == t) for g, t in zip(guesses, truth, strict=True)], loss.tolist()
    )


def prefixed(split: str, values: dict[str, float]) -> dict[str, float]:
    """The record's names: "test/accuracy" and so on."""
    return {f"{split}/{name}": value for name, value in values.items()}


def write_predictions(path, task, split: str, scores: Scores) -> None:
    """One row per example: id, label, prediction, score, loss (parquet).

    Labels and predictions are written as text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    encoded = task.splits[split]
    table = {
        "id": list(encoded.ids),
        "label": _names(task, encoded.labels.tolist()) if scores.predicted else [None] * len(encoded.ids),
        "prediction": _names(task, scores.predicted) if scores.predicted else [None] * len(encoded.ids),
        "score": scores.score,
        "loss": scores.loss,
    }
    kinds = {
        "id": pa.string(),
        "label": pa.string(),
        "prediction": pa.string(),
        "score": pa.float64(),
        "loss": pa.float64(),
    }
    with replacing(path) as temporary:
        pq.write_table(pa.table(table, schema=pa.schema(list(kinds.items()))), temporary)


def _names(task, numbers: Sequence[int]) -> list[str]:
    return [task.labels[n] for n in numbers]
