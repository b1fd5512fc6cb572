"""What a dataset is: raw rows, the task they make, and the same rows as tensors. No torch at import.

Everything here is a function of the texts alone. The id of a row and the split it falls into come from a
hash of its text, rows are kept sorted by id, and the SHA-256 of a split is taken over the sorted rows: so
neither the order of a file nor its date nor the machine changes a split or a hash.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from experiments.errors import UserError

if TYPE_CHECKING:
    import torch

SPLITS = ("train", "validation", "test")
SHARES = {"train": 70, "validation": 13, "test": 17}  # per cent; verdicts rest on the test part

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
    """One split as read, sorted by id: `texts` and `labels` for classification, `turns` for causal tasks."""

    ids: tuple[str, ...]
    texts: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    turns: tuple[tuple[Turn, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

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
        columns = (self.texts, self.labels) if self.texts else (self.turns,)
        rows = sorted(canonical(row) for row in zip(self.ids, *columns, strict=True))
        return digest("\n".join(rows))


@dataclass(frozen=True)
class RawTask:
    """A task as read: its rows as text, nothing tokenised."""

    name: str
    kind: str  # "classification" | "causal"
    labels: tuple[str, ...]  # names of the classes, by class number; empty for text generation
    splits: dict[str, Rows]
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> dict[str, str]:
        """One hash per split."""
        return {split: rows.sha256 for split, rows in self.splits.items()}

    @classmethod
    def from_plain(cls, value: dict[str, Any]) -> "RawTask":
        """The inverse of `dataclasses.asdict`, after a way through JSON."""
        splits = {
            split: Rows(
                tuple(rows["ids"]),
                tuple(rows["texts"]),
                tuple(rows["labels"]),
                tuple(tuple((role, text) for role, text in turns) for turns in rows["turns"]),
            )
            for split, rows in value["splits"].items()
        }
        return cls(value["name"], value["kind"], tuple(value["labels"]), splits, tuple(value["notes"]))

    @property
    def fingerprint(self) -> str:
        """One hash for the whole: every split and the names of the classes."""
        return digest(canonical([self.kind, self.labels, sorted(self.sha256.items())]))


@dataclass
class Encoded:
    """One split as tensors, right-padded to the task's length."""

    ids: tuple[str, ...]
    input_ids: "torch.Tensor"  # (N, T) int64
    attention_mask: "torch.Tensor"  # (N, T) int64, 1 on text
    labels: "torch.Tensor"  # (N,) class numbers, or (N, T) token ids with -100 where no loss is due
    truncated: int  # examples that were longer than T and were cut


@dataclass
class Task:
    """What a run trains on and is measured by."""

    name: str
    kind: str
    labels: tuple[str, ...]
    splits: dict[str, Encoded]
    sha256: dict[str, str]  # of the raw rows, per split
    rows: dict[str, int]  # encoded examples, per split
    max_length: int  # T, the same for every batch
    metric: str  # the primary metric: "accuracy" or "loss"
    goal: str  # "max" | "min"
    metrics: tuple[str, ...]  # computed beside the loss, see experiments.metrics
    notes: tuple[str, ...] = field(default_factory=tuple)


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
