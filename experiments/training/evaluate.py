"""What a trained pack scores on a split: metrics, and one row per example."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache

from experiments.files import Check, replacing, unchecked
from experiments.models.first_token import at_first_token, shortened
from experiments.tasks import Outputs, Scores, kind_of
from experiments.tasks._base import IGNORE
from experiments.training.batch import Batch, Prefixed, by_length, by_prefix, gather, of_tokens
from experiments.training.generation import Settings, generate, reads_cache
from experiments.training.loop import autocast
from experiments.training.losses import LOGITS, RowLosses, hooked, row_losses, run_to_head

CACHED = 16_384  # tokens of prompts and options that are in memory at a time


@torch.no_grad()
def evaluate(
    model: torch.nn.Module,
    task,
    split: str,
    *,
    runs: int,
    precision: str,
    batch_size: int,
    examples: int | None = None,
) -> list[Scores]:
    """Score every run of the pack on the same examples.

    Args:
        model: The attached model of `runs` runs; it is put into evaluation mode and left there.
        task: The encoded task (`experiments.data.Task`).
        split: "validation" or "test".
        runs: K, the length of the run axis.
        precision: As in training.
        batch_size: Rows of a forward pass, shared out among the runs.
        examples: At most so many, the first in the order of their hashes; None: all.
    """
    model.eval()
    kind, encoded = kind_of(task.kind), task.splits[split]
    if examples is not None and examples < len(encoded.examples):
        encoded = encoded.first(examples)
    outputs = forward(model, kind, encoded, runs=runs, precision=precision, batch_size=batch_size)
    if kind.generates(task.metrics):
        settings = Settings.of(task.settings)
        answers = generate(
            model,
            _prompts(encoded),
            task.tokenizer,
            settings,
            runs=runs,
            precision=precision,
            size=max(1, batch_size // runs),
        )
        for one, texts in zip(outputs, answers, strict=True):
            one.answers = texts
    return [kind.score(task, encoded, one) for one in outputs]


@torch.no_grad()
def forward(model, kind, encoded, *, runs: int, precision: str, batch_size: int) -> list[Outputs]:
    """The losses and predictions of each run on each row, as `evaluate` takes its arguments."""
    device = next(model.parameters()).device
    found: dict[str, torch.Tensor] = {}
    layer = shortened(model, gather(encoded, torch.zeros(runs, dtype=torch.long)).to(device).inputs())

    def keep(rows: torch.Tensor, losses: RowLosses) -> None:
        for name, part in losses._asdict().items():
            part = part.view(runs, len(rows), *part.shape[1:]).cpu()
            into = found.setdefault(name, part.new_zeros(runs, len(encoded.ids), *part.shape[2:]))
            into[:, rows] = part

    size = max(1, batch_size // runs)
    shares = reads_cache(model) and not getattr(model, "virtual_tokens", ())
    groups, others = by_prefix(encoded, size=size, tokens=CACHED // runs) if shares else ([], None)
    for rows, length in by_length(encoded, size=size, among=others):
        batch = gather(encoded, rows, length).map(lambda t: t.repeat(runs, *[1] * (t.dim() - 1))).to(device)
        with autocast(precision, device), at_first_token(layer):
            keep(rows, _losses(model, kind, batch, runs))
    for group in groups:
        with autocast(precision, device):
            keep(group.rows.flatten(), _after_prefix(model, kind, encoded, group, runs, device))
    return [Outputs(**{name: values[k] for name, values in found.items()}) for k in range(runs)]


def _after_prefix(
    model: torch.nn.Module, kind: Any, encoded: Any, group: Prefixed, runs: int, device: torch.device
) -> RowLosses:
    """The losses of rows whose examples' common beginnings are read once, into a cache."""
    each, (before, after) = group.rows.shape[1], group.columns
    whole = lambda t: t.repeat(runs, 1).to(device)  # noqa: E731
    places = torch.arange(before) - (before - group.start)[:, None]  # (n, before): padded on the left, so
    mask = places >= 0  # that no row has a hole, which sliding windows would count
    cache = DynamicCache()
    model(
        input_ids=whole(encoded.input_ids[group.rows[:, 0]].gather(1, places.clamp_min(0))),
        attention_mask=whole(mask.long()),
        position_ids=whole(places.clamp_min(0)),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    cache.batch_repeat_interleave(each)
    rows, longest = group.rows.flatten(), encoded.input_ids.shape[1]
    places = (group.start[:, None] + torch.arange(after)).repeat_interleave(each, 0)  # (n * each, after)
    inside, places = places < longest, places.clamp_max(longest - 1)
    part = lambda t: t[rows].gather(1, places)  # noqa: E731
    labels = part(encoded.labels).where(inside, IGNORE)
    read = torch.cat([mask.repeat_interleave(each, 0).long(), part(encoded.attention_mask) * inside], 1)
    batch = Batch(part(encoded.input_ids), read, labels, {"position_ids": places}).map(whole)
    return _losses(
        model, kind, batch, runs, attention_mask=batch.attention_mask, past_key_values=cache, use_cache=True
    )


def _losses(model: torch.nn.Module, kind: Any, batch: Batch, runs: int, **more: Any) -> RowLosses:
    """The losses of each row; for tokens with logits where a target is and nowhere else, LOGITS at a time.

    Whatever a model does to logits (caps, scales) it does to these: its own forward pass makes them, over one
    token of each run, with the hidden states of targets put in before the map to the vocabulary.
    """
    head = model.get_output_embeddings() if of_tokens(batch.labels) else None
    hidden, logits = run_to_head(model, head, batch, **more)
    if hidden is None:
        losses: RowLosses = (kind.loss or row_losses)(logits, batch.labels)
        return losses
    labels = batch.labels[:, 1:]
    rows, wanted = len(labels) // runs, labels != IGNORE  # the same of each run
    hidden = hidden[:, :-1][wanted].view(runs, -1, hidden.shape[-1])
    targets, parts, hits = labels[wanted].view(runs, -1), [], []
    one = {name: tensor[::rows, :1] for name, tensor in batch.inputs().items()}
    size = max(1, LOGITS // (runs * logits.shape[-1]))
    for part, target in zip(hidden.split(size, dim=1), targets.split(size, dim=1), strict=True):
        with hooked(head, lambda *_, part=part: (part,)):
            logits = model(**one).logits
        each = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none")
        parts.append(each.view(runs, -1))
        hits.append(logits.argmax(-1) == target)
    counts = wanted.sum(1)
    sizes = counts[:rows].tolist()
    total = torch.stack([x.sum(1) for x in torch.cat(parts, dim=1).split(sizes, dim=1)], dim=1)
    greedy = torch.stack([x.all(1) for x in torch.cat(hits, dim=1).split(sizes, dim=1)], dim=1)
    return RowLosses(total.flatten(), counts, greedy.flatten().long())


def _prompts(encoded) -> list[list[int]]:
    """The tokens of each row before its first target; all that an encoder reads."""
    ids, mask = encoded.input_ids, encoded.attention_mask.bool()
    if "decoder_input_ids" not in encoded.extra:
        mask = mask & ((encoded.labels != IGNORE).cumsum(1) == 0)
    return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]


def prefixed(split: str, values: dict[str, float]) -> dict[str, float]:
    """The record's names: "test/accuracy" and so on."""
    return {f"{split}/{name}": value for name, value in values.items()}


def overall(tested: Mapping[str, Scores]) -> dict[str, float]:
    """The metrics of one test set, or of several: each one's own, and the means of those that all have."""
    every = [set(scores.metrics) for scores in tested.values()]
    if len(every) == 1:
        return next(iter(tested.values())).metrics
    means = {
        name: sum(scores.metrics[name] for scores in tested.values()) / len(every)
        for name in sorted(set.intersection(*every))
    }
    return means | {f"{one}/{n}": v for one, scores in tested.items() for n, v in scores.metrics.items()}


def write_predictions(
    path, tested: Mapping[str, tuple[Sequence[str], Scores]], *, check: Check = unchecked
) -> None:
    """One row per example: id, label, prediction, score, loss, and what the kind of task adds (parquet).

    Args:
        path: The file.
        tested: By the name of a test set the ids of its examples and their scores. Of several sets, the ids
            begin with the set's name and a slash, and scores are weighted so that each set counts the same.
        check: As in `files.replacing`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {"id": []}
    total = sum(len(ids) for ids, _ in tested.values())
    for name, (ids, scores) in tested.items():
        columns["id"] += [f"{name}/{one}" if len(tested) > 1 else one for one in ids]
        before, weight = len(columns["id"]) - len(ids), total / (len(tested) * len(ids))
        for column, values in scores.columns.items():
            weighted = [weight * v for v in values] if column == "score" and len(tested) > 1 else values
            columns.setdefault(column, [None] * before).extend(weighted)
        for values in columns.values():
            values += [None] * (len(columns["id"]) - len(values))
    kinds = {"id": pa.string(), "label": pa.string(), "prediction": pa.string(), "score": pa.float64()}
    kinds |= {"loss": pa.float64()}
    arrays = {name: pa.array(values, kinds.get(name)) for name, values in columns.items()}
    with replacing(path, check=check) as temporary:
        pq.write_table(pa.table(arrays), temporary)
