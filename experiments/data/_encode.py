"""From rows of text to tensors of one length, recalled from the cache where they were made before."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from experiments import cache
from experiments.data._chat import remarks, render
from experiments.data._tasks import SPLITS, Encoded, RawTask, Rows, Task, canonical
from experiments.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100  # the target at places where no loss is due
_TENSORS = ("input_ids", "attention_mask", "labels")
MULTIPLE = 8  # lengths are rounded up to this

Columns = dict[str, Tensor]
Tokens = tuple[list[int], Any]  # input ids; their targets (a list) or the class number
Part = tuple[tuple[str, ...], list[Tokens], int]  # ids of a split, its tokens, how many texts were cut


def identity(raw: RawTask, tokenizer: "PreTrainedTokenizerBase", max_length: int, version: str) -> str:
    """The hash of all that decides the tensors: rows, tokenizer, template, length."""
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
        str(tokenizer.chat_template) if raw.kind == "causal" else "",
        min(max_length, tokenizer.model_max_length),
    ]
    return hashlib.sha256(canonical(facts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def encode(raw: RawTask, tokenizer: "PreTrainedTokenizerBase", max_length: int, *, key: str) -> Task:
    """Tokenise a task, or recall what was made under `key`."""
    limit = min(max_length, tokenizer.model_max_length)
    splits = _recall(key)
    if splits is None:
        splits = _tokenised(raw, tokenizer, limit)
        cache.store(_entry(key), lambda path: _save(splits, path))
    longest = next(iter(splits.values())).input_ids.shape[1]
    causal = raw.kind == "causal"
    chats = remarks([turns for rows in raw.splits.values() for turns in rows.turns], tokenizer)
    return Task(
        name=raw.name,
        kind=raw.kind,
        labels=raw.labels,
        splits=splits,
        sha256=raw.sha256,
        rows={split: len(encoded.ids) for split, encoded in splits.items()},
        max_length=longest,
        metric="loss" if causal else "accuracy",
        goal="min" if causal else "max",
        metrics=() if causal else ("accuracy", "macro_f1", "matthews"),
        notes=(*raw.notes, *chats, *_notes(raw, splits, max_length, limit, longest)),
    )


def encode_rows(rows: Rows, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> Encoded:
    """Rows for classification, as long as the longest of them."""
    ids, tokens, truncated = _classified(rows, tokenizer, min(max_length, tokenizer.model_max_length))
    longest = max(len(text) for text, _ in tokens)
    return _padded(ids, tokens, truncated, length=longest, pad=tokenizer.pad_token_id or 0)


def _notes(raw: RawTask, splits: dict[str, Encoded], asked: int, limit: int, longest: int) -> list[str]:
    why = "the model takes no more" if limit < asked else "dataset.max_length"
    total = sum(len(part.ids) for part in splits.values())
    notes = []
    if cut := sum(part.truncated for part in splits.values()):
        notes.append(f"{cut} of {total} texts are longer than {longest} tokens and were cut there ({why})")
    if lost := sum(len(rows) for rows in raw.splits.values()) - total:
        notes.append(f"{lost} examples were dropped: their prompt alone fills the {limit} tokens ({why})")
    problem = cache.problem()
    return notes + ([problem] if problem and problem not in raw.notes else [])


def _tokenised(raw: RawTask, tokenizer: "PreTrainedTokenizerBase", limit: int) -> dict[str, Encoded]:
    tokenise = _classified if raw.kind == "classification" else _completed
    parts = {split: tokenise(rows, tokenizer, limit) for split, rows in raw.splits.items()}
    for split, (_, tokens, _) in parts.items():
        if not tokens:
            raise UserError(
                f"dataset.max_length={limit} leaves nothing to learn in {split}: every prompt alone is as "
                "long. Give a larger dataset.max_length, or a model that takes more"
            )
    longest = max(len(ids) for _, tokens, _ in parts.values() for ids, _ in tokens)
    length = min(limit, -(-longest // MULTIPLE) * MULTIPLE)
    pad = tokenizer.pad_token_id or 0
    return {split: _padded(*part, length=length, pad=pad) for split, part in parts.items()}


def _classified(rows: Rows, tokenizer: "PreTrainedTokenizerBase", limit: int) -> Part:
    """Input ids and class number of every text; a special token's text in it is text like any other."""
    options: Any = {"verbose": False, "split_special_tokens": True}
    encoded = tokenizer(list(rows.texts), truncation=False, **options)["input_ids"]
    long = [index for index, ids in enumerate(encoded) if len(ids) > limit]
    if long:  # cut by the tokenizer itself, which keeps its closing token
        texts = [rows.texts[index] for index in long]
        cut = tokenizer(texts, truncation=True, max_length=limit, **options)["input_ids"]
        for index, ids in zip(long, cut, strict=True):
            encoded[index] = ids
    return rows.ids, list(zip(encoded, rows.labels, strict=True)), len(long)


def _completed(rows: Rows, tokenizer: "PreTrainedTokenizerBase", limit: int) -> Part:
    """Input ids and targets of every conversation that keeps some of its completion."""
    kept: list[str] = []
    tokens: list[Tokens] = []
    for name, (prompt, completion) in zip(rows.ids, render(rows.turns, tokenizer), strict=True):
        if len(prompt) < limit:
            kept.append(name)
            tokens.append((prompt + completion, [IGNORE] * len(prompt) + completion))
    cut: list[Tokens] = [(ids[:limit], targets[:limit]) for ids, targets in tokens]
    return tuple(kept), cut, sum(len(ids) > limit for ids, _ in tokens)


def _padded(ids: tuple[str, ...], tokens: list[Tokens], truncated: int, *, length: int, pad: int) -> Encoded:
    """Right-padded tensors of (N, length)."""
    inputs = torch.full((len(tokens), length), pad)
    mask = torch.zeros_like(inputs)
    causal = isinstance(tokens[0][1], list)
    labels = torch.full_like(inputs, IGNORE) if causal else torch.tensor([target for _, target in tokens])
    for row, (text, target) in enumerate(tokens):
        inputs[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
        if causal:
            labels[row, : len(text)] = torch.tensor(target)
    return Encoded(ids, inputs, mask, labels, truncated)


def _entry(key: str) -> Path:
    return cache.entry("tokens", f"{key}.safetensors")


def _save(splits: dict[str, Encoded], path: Path) -> None:
    from safetensors.torch import save_file

    columns, head = {}, {}
    for split, part in splits.items():
        for name in _TENSORS:
            columns[f"{split}/{name}"] = getattr(part, name).to(torch.int32)
        head[split] = json.dumps({"ids": part.ids, "truncated": part.truncated})
    save_file(columns, path, metadata={**head, "sha256": _checksum(columns, head)})


def _recall(key: str) -> dict[str, Encoded] | None:
    """What was saved, or None if it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_entry(key), framework="pt") as file:
            head: dict[str, Any] = dict(file.metadata())
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        if head.pop("sha256", None) != _checksum(columns, head):
            return None
    except (OSError, SafetensorError):
        return None
    splits = {}
    for split in (split for split in SPLITS if split in head):
        known = json.loads(head[split])
        inputs, mask, labels = (columns[f"{split}/{name}"].long() for name in _TENSORS)
        splits[split] = Encoded(tuple(known["ids"]), inputs, mask, labels, known["truncated"])
    return splits


def _checksum(columns: Columns, head: dict[str, str]) -> str:
    digest = hashlib.sha256(canonical(sorted(head.items())).encode("utf-8", "surrogatepass"))
    for name in sorted(columns):
        digest.update(name.encode())
        digest.update(columns[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
