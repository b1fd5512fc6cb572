"""From rows of text to tensors of one length, recalled from the cache where they were made before."""

import hashlib
import json
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from experiments import cache, metrics
from experiments.data._tasks import Encoded, RawTask, Rows, Task, canonical
from experiments.errors import UserError
from experiments.tasks import Tokens, kind_of
from experiments.tasks._answers import check as check_rule
from experiments.tasks._base import IGNORE, encoded_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MULTIPLE = 8  # lengths are rounded up to this

Columns = dict[str, Tensor]


def identity(
    raw: RawTask,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    version: str,
    decoder_start: int | None = None,
) -> str:
    """The hash of all that decides the tensors: rows, tokenizer, template, length, encoder-decoder or not."""
    if getattr(tokenizer, "is_fast", False):
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        vocabulary = {name: part for name, part in state.items() if name not in ("truncation", "padding")}
    else:
        vocabulary = tokenizer.get_vocab()
    facts = [
        version,
        raw.fingerprint,
        type(tokenizer).__name__,
        vocabulary,
        str(sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())),
        kind_of(raw.kind).reads(tokenizer),
        min(max_length, tokenizer.model_max_length),
        decoder_start,
    ]
    return hashlib.sha256(canonical(facts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def encode(
    raw: RawTask,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    *,
    key: str,
    decoder_start: int | None = None,
) -> Task:
    """Tokenise a task, or recall what was made under `key`."""
    limit, kind = min(max_length, tokenizer.model_max_length), kind_of(raw.kind)
    measured = kind.measured(raw.settings.get("metrics"))
    check_rule(raw.settings.get("answer"))
    splits = _recall(key)
    if splits is None:
        splits = tokenised(raw, tokenizer, limit, decoder_start)
        _save(splits, key)
    longest = next(iter(splits.values())).input_ids.shape[1]
    notes = [*kind.remarks(raw, tokenizer), *_notes(raw, splits, max_length, limit, longest)]
    return Task(
        name=raw.name,
        kind=raw.kind,
        labels=raw.labels,
        splits=splits,
        sha256=raw.sha256,
        rows={split: len(encoded.examples) for split, encoded in splits.items()},
        max_length=longest,
        metric=measured[0],
        goal=metrics.goal(measured[0]),
        metrics=tuple(name for name in measured if name != "loss"),
        notes=(*raw.notes, *notes),
        settings=raw.settings,
        tokenizer=tokenizer,
    )


def encode_rows(rows: Rows, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> Encoded:
    """Rows for classification, as long as the longest of them."""
    tokens = encoded_texts(
        rows, torch.tensor(rows.labels), tokenizer, min(max_length, tokenizer.model_max_length)
    )
    return _padded(tokens, length=max(map(len, tokens.input_ids)), pad=tokenizer.pad_token_id or 0)


def _notes(raw: RawTask, splits: dict[str, Encoded], asked: int, limit: int, longest: int) -> list[str]:
    why = "the model takes no more" if limit < asked else "dataset.max_length"
    total = sum(len(part.ids) for part in splits.values())
    notes = []
    if cut := sum(part.truncated for part in splits.values()):
        notes.append(f"{cut} of {total} texts are longer than {longest} tokens and were cut there ({why})")
    lost = sum(len(raw.splits[name]) - len(part.examples) for name, part in splits.items() if name != "train")
    if "position_ids" not in splits["train"].extra:
        lost += len(raw.splits["train"]) - len(splits["train"].ids)
    else:
        notes.append(f"train: {len(raw.splits['train'])} texts packed into {len(splits['train'].ids)} rows")
    if lost:
        notes.append(f"{lost} examples were dropped: their prompt alone fills the {limit} tokens ({why})")
    problem = cache.problem()
    return notes + ([problem] if problem and problem not in raw.notes else [])


def tokenised(
    raw: RawTask, tokenizer: "PreTrainedTokenizerBase", limit: int, decoder_start: int | None
) -> dict[str, Encoded]:
    """The tensors of each split, made anew."""
    kind = kind_of(raw.kind)
    parts = {
        split: kind.tokens(raw, split, tokenizer, limit, decoder_start=decoder_start) for split in raw.splits
    }
    for split, part in parts.items():
        if not part.input_ids:
            raise UserError(
                f"dataset.max_length={limit} leaves nothing to learn in {split}: every prompt alone is as "
                "long. Give a larger dataset.max_length, or a model that takes more"
            )
    longest = max(len(ids) for part in parts.values() for ids in part.input_ids)
    length = min(limit, -(-longest // MULTIPLE) * MULTIPLE)
    pad = tokenizer.pad_token_id or 0
    return {split: _padded(part, length=length, pad=pad) for split, part in parts.items()}


def _padded(tokens: Tokens, *, length: int, pad: int) -> Encoded:
    """Right-padded tensors of (N, length); what a decoder writes has a length of its own."""
    writes = "decoder_input_ids" in tokens.extra
    written = max(map(len, tokens.extra["decoder_input_ids"])) if writes else length
    fills = {"decoder_input_ids": pad}
    extra = {
        name: _filled(rows, written if name.startswith("decoder") else length, fills.get(name, 0))
        for name, rows in tokens.extra.items()
    }
    mask = (torch.arange(length) < torch.tensor([len(row) for row in tokens.input_ids])[:, None]).long()
    inputs, labels = _filled(tokens.input_ids, length, pad), tokens.labels
    if not isinstance(labels, Tensor) and isinstance(labels[0], int):
        due = mask.bool() & (torch.arange(length) >= torch.tensor(labels)[:, None])
        labels = torch.where(due, inputs, IGNORE)
    elif not isinstance(labels, Tensor):
        labels = _filled(labels, written, IGNORE)
    return Encoded(tokens.ids, inputs, mask, labels, tokens.truncated, extra, tokens.meta)


def _filled(rows: list[list[int]], length: int, fill: int) -> Tensor:
    """(N, length) int64 with `fill` behind each row."""
    sizes = np.fromiter(map(len, rows), np.int64, len(rows))
    out = np.full((len(rows), length), fill)
    out[np.arange(length) < sizes[:, None]] = np.fromiter(chain.from_iterable(rows), np.int64, sizes.sum())
    return torch.from_numpy(out)


def _save(splits: dict[str, Encoded], key: str) -> None:
    """File the tensors, whole numbers in 32 bits, and beside them all that is none."""
    columns: Columns = {}
    for split, part in splits.items():
        tensors = {"input_ids": part.input_ids, "attention_mask": part.attention_mask, "labels": part.labels}
        for name, tensor in {**tensors, **{f"extra/{k}": t for k, t in part.extra.items()}}.items():
            columns[f"{split}/{name}"] = tensor if tensor.is_floating_point() else tensor.to(torch.int32)
    cache.store_tensors("tokens", key, columns)
    facts = {split: [part.ids, part.truncated, part.meta] for split, part in splits.items()}
    cache.store_json("tokens", f"{key}.json", facts, head={})


def _recall(key: str) -> dict[str, Encoded] | None:
    """What was filed, or None if it is missing or damaged."""
    facts = cache.recall_json("tokens", f"{key}.json")
    columns = None if facts is None else cache.recall_tensors("tokens", key)
    if facts is None or columns is None:
        return None
    splits = {}
    for split, (ids, truncated, meta) in facts.items():
        own = {
            name.removeprefix(f"{split}/"): tensor if tensor.is_floating_point() else tensor.long()
            for name, tensor in columns.items()
            if name.startswith(f"{split}/")
        }
        extra = {name.removeprefix("extra/"): t for name, t in own.items() if name.startswith("extra/")}
        splits[split] = Encoded(
            tuple(ids), own["input_ids"], own["attention_mask"], own["labels"], truncated, extra, meta
        )
    return splits
