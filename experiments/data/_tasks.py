"""What a dataset is: raw rows, the task they make, and the same rows as tensors. No torch at import.

Everything here is a function of the texts alone. The id of a row and the split it falls into come from a
hash of its text, rows are kept sorted by id, and the SHA-256 of a split is taken over the sorted rows: so
neither the order of a file nor its date nor the machine changes a split or a hash.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from experiments.errors import UserError
from experiments.frozen import FrozenDict, frozen

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "validation", "test")
SHARES = {"train": 70, "validation": 13, "test": 17}  # per cent; verdicts rest on the test part

# Options of any dataset that say how answers are made and scored. They are no part of the rows.
SETTINGS = ("metrics", "answer", "max_new_tokens", "beams", "length_penalty", "no_repeat_ngram", "stop")
_HASHED_AS = {"completion": "causal"}  # the kind's name when ids of runs were first made from it

FEW = 50  # a split of fewer examples is remarked on

T = TypeVar("T")
Turn = tuple[str, str]  # role, text: "prompt" and "completion" are plain text, any other role is a chat
Conversation = tuple[Turn, ...]


def digest(text: str) -> str:
    """The SHA-256 of a text in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def split_of(text: str) -> str:
    """The split that a text falls into, by its own hash: 70% train, 13% validation, 17% test."""
    tail = digest(text)[-8:]  # the head is the id, which gives the order
    bucket = int(tail, 16) % 100
    if bucket < SHARES["train"]:
        return "train"
    return "validation" if bucket < SHARES["train"] + SHARES["validation"] else "test"


@dataclass(frozen=True)
class Rows:
    """One split as read, sorted by id. The kind of task says which columns are there, the others are ().

    All columns have one entry per example.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...] = ()
    labels: tuple[Any, ...] = ()  # class numbers, sets of them, values, or numbers of right options
    turns: tuple[tuple[Turn, ...], ...] = ()  # a prompt and a completion, or a chat
    seconds: tuple[str, ...] = ()  # the second text of a pair
    options: tuple[tuple[str, ...], ...] = ()  # what there is to choose from
    references: tuple[tuple[str, ...], ...] = ()  # all right answers, where there are several

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, **columns: Sequence[Any]) -> "Rows":
        """Rows from columns by their names, in any order; what is asked decides an id, not the answer."""
        given = {name: column for name, column in columns.items() if column}
        inputs = [given[name] for name in ("texts", "seconds", "turns", "options") if name in given]
        keys = [digest(canonical(row))[:12] for row in zip(*inputs, strict=True)]
        spelled = [canonical(row) for row in zip(*given.values(), strict=True)]
        order = sorted(range(len(keys)), key=lambda i: (keys[i], spelled[i]))
        ordered = {name: tuple(frozen(column[i]) for i in order) for name, column in given.items()}
        return cls(_distinct(keys[i] for i in order), **ordered)

    def first(self, count: int) -> "Rows":
        """The first examples in the order of their hashes: a choice that favours none."""
        return Rows(*(getattr(self, f.name)[:count] for f in fields(self)))

    @classmethod
    def classification(cls, examples: Iterable[tuple[str, int]]) -> "Rows":
        """Rows from (text, class number) pairs in any order."""
        ordered = sorted((digest(text)[:12], text, label) for text, label in examples)
        return cls(
            _distinct(o[0] for o in ordered), tuple(o[1] for o in ordered), tuple(o[2] for o in ordered)
        )

    @classmethod
    def conversations(cls, examples: Iterable[tuple[Turn, ...]]) -> "Rows":
        """Rows from conversations in any order; the last turn of each is the one to be learned."""
        ordered = sorted((digest(canonical(turns))[:12], turns) for turns in examples)
        return cls(_distinct(o[0] for o in ordered), turns=tuple(o[1] for o in ordered))

    @property
    def sha256(self) -> str:
        """Hash of the rows, whatever order they are held in."""
        columns = (self.texts, self.labels, self.seconds, self.turns, self.options, self.references)
        given = [column for column in columns if column]
        rows = sorted(canonical(row) for row in zip(self.ids, *given, strict=True))
        return digest("\n".join(rows))


@dataclass(frozen=True)
class RawTask:
    """A task as read: its rows as text, nothing tokenised."""

    name: str
    kind: str  # one of `experiments.tasks.names()`
    labels: tuple[str, ...]  # names of the classes, by class number; empty for tasks without classes
    splits: dict[str, Rows]
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=FrozenDict)  # how it is scored, see SETTINGS

    @property
    def sha256(self) -> dict[str, str]:
        """One hash per split."""
        return {split: rows.sha256 for split, rows in self.splits.items()}

    def as_plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**vars(self), "splits": {split: vars(rows) for split, rows in self.splits.items()}}

    @classmethod
    def from_plain(cls, value: dict[str, Any]) -> "RawTask":
        """The inverse of `as_plain`, after a way through JSON."""
        splits = {
            split: Rows(**{name: frozen(column) for name, column in rows.items()})
            for split, rows in value["splits"].items()
        }
        settings = FrozenDict(value["settings"])
        return cls(
            value["name"], value["kind"], tuple(value["labels"]), splits, tuple(value["notes"]), settings
        )

    @property
    def fingerprint(self) -> str:
        """One hash for the whole: every split and the names of the classes."""
        kind = _HASHED_AS.get(self.kind, self.kind)
        return digest(canonical([kind, self.labels, sorted(self.sha256.items())]))


@dataclass
class Encoded:
    """One split as tensors, right-padded to one length. Mostly a row is an example; else `meta` says more."""

    ids: tuple[str, ...]
    input_ids: "torch.Tensor"  # (N, T) int64
    attention_mask: "torch.Tensor"  # (N, T) int64, 1 on text
    labels: "torch.Tensor"  # see `experiments.training.losses`
    truncated: int  # examples that were longer than T and were cut
    extra: "dict[str, torch.Tensor]" = field(default_factory=dict)  # more inputs of the model, (N, ...) int64
    meta: dict[str, list[Any]] = field(default_factory=dict)  # what scoring needs beside tensors, by example
    # In `meta`, "example" holds each row's example where an example has several rows, "id" the examples' ids.

    @property
    def examples(self) -> tuple[str, ...]:
        """The ids of the examples."""
        return tuple(self.meta["id"]) if "id" in self.meta else self.ids

    def first(self, count: int) -> "Encoded":
        """The rows of the first `count` examples."""
        rows = sum(e < count for e in self.meta["example"]) if "example" in self.meta else count
        return Encoded(
            self.ids[:rows],
            self.input_ids[:rows],
            self.attention_mask[:rows],
            self.labels[:rows],
            self.truncated,
            {name: tensor[:rows] for name, tensor in self.extra.items()},
            {name: part[: rows if name == "example" else count] for name, part in self.meta.items()},
        )


@dataclass
class Task:
    """What a run trains on and is measured by."""

    name: str
    kind: str  # one of `experiments.tasks.names()`
    labels: tuple[str, ...]
    splits: dict[str, Encoded]
    sha256: dict[str, str]  # of the raw rows, per split
    rows: dict[str, int]  # encoded examples, per split
    max_length: int  # T, the same for every batch
    metric: str  # the primary metric
    goal: str  # "max" | "min"
    metrics: tuple[str, ...]  # computed beside the loss, see experiments.metrics
    notes: tuple[str, ...] = field(default_factory=tuple)
    settings: Mapping[str, Any] = field(default_factory=FrozenDict)  # see SETTINGS
    tokenizer: "PreTrainedTokenizerBase | None" = field(default=None, repr=False)
    tests: "dict[str, Task]" = field(default_factory=dict)  # tested on instead of an own test split
    also: "dict[str, Task]" = field(default_factory=dict)  # measured on before and after training

    @property
    def described(self) -> dict[str, Any]:
        """What the record says of the task."""
        beside = {"tests": list(self.tests), "also": list(self.also)}
        named = {role: names for role, names in beside.items() if names}
        settings = {key: list(v) if isinstance(v, tuple) else v for key, v in self.settings.items()}
        return {"kind": self.kind, "metrics": list(self.metrics), **settings, **named}

    @property
    def tested(self) -> "dict[str, Task]":
        """The tasks whose test splits a run is tested on."""
        return self.tests or {self.name: self}


def canonical(value: object) -> str:
    """JSON in one spelling, so that equal values have equal hashes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def carve(
    pools: Mapping[str, Sequence[T]], *, text: Callable[[T], str], label: Callable[[T], object]
) -> tuple[dict[str, list[T]], list[str]]:
    """Complete a set of splits: each one that is missing is taken out of "train" by the hash rule.

    A class whose every example would leave the training part stays in it whole: what is not taught is not
    tested.

    Args:
        pools: Examples per given split; "train" among them.
        text: The text of an example that decides its split.
        label: The class of an example.

    Returns:
        The examples per split, all three present, and notes on what was done.
    """
    missing = [split for split in SPLITS if split not in pools]
    parts = {split: list(pools.get(split, ())) if split != "train" else [] for split in SPLITS}
    homes = [split_of(text(example)) for example in pools["train"]]
    leaves = [home in missing for home in homes]
    taught = {label(example) for example, leaving in zip(pools["train"], leaves, strict=True) if not leaving}
    kept = 0
    for example, home, leaving in zip(pools["train"], homes, leaves, strict=True):
        kept += leaving and label(example) not in taught
        parts[home if leaving and label(example) in taught else "train"].append(example)
    if not missing:
        return parts, []
    sizes = ", ".join(f"{split} {len(parts[split])}" for split in SPLITS)
    notes = [f"{' and '.join(missing)} split from train by a hash of the text: {sizes}"]
    if kept:
        notes.append(
            f"{kept} examples of rare classes stayed in train, which would else have had none of them"
        )
    return parts, notes


def check_sizes(parts: Mapping[str, Sequence[object]]) -> None:
    """Refuse data too small to have something in every split."""
    empty = [split for split in SPLITS if not parts[split]]
    if empty:
        raise UserError(
            f"{sum(map(len, parts.values()))} examples are too few to split by hash: {' and '.join(empty)} "
            "would be empty. Give more, or a folder with train, validation and test files"
        )


def few(parts: Mapping[str, Sequence[object]]) -> list[str]:
    """A note on splits whose scores would say little."""
    return [
        f"{split} has only {len(parts[split])} examples: a score on them says little"
        for split in ("validation", "test")
        if len(parts[split]) < FEW
    ]


def _distinct(ids: Iterable[str]) -> tuple[str, ...]:
    """Ids made unique: the second example of the same text becomes "<id>-1", and so on."""
    seen: Counter[str] = Counter()
    unique = []
    for name in ids:
        unique.append(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return tuple(unique)
