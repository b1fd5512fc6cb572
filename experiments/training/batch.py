"""Which examples a run sees at which step.

A function of (seed, step), so it never depends on the variant or on a resume.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experiments.tasks._base import IGNORE
from variants import generator

SHARED = 8  # tokens that the rows of an example have to share for being read once
ROUNDED = 4  # columns are read in multiples of this: fewer shapes


@dataclass
class Order:
    """An endless stream of shuffled epochs over `rows` examples, from the stream "order" of the seed."""

    seed: int
    rows: int
    _epochs: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def take(self, step: int, size: int) -> Tensor:
        """The `size` row numbers of step `step` (counted from 0). A batch may span two epochs."""
        positions = range(step * size, (step + 1) * size)
        return torch.stack([self._epoch(p // self.rows)[p % self.rows] for p in positions])

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            for old in [e for e in self._epochs if e < epoch - 1]:
                del self._epochs[old]
            self._epochs[epoch] = torch.randperm(self.rows, generator=generator(self.seed, "order", epoch))
        return self._epochs[epoch]


@dataclass(frozen=True)
class Batch:
    """Rows of K runs, run-major: the rows of run k are k*n .. (k+1)*n - 1."""

    input_ids: Tensor  # (K*n, T)
    attention_mask: Tensor  # (K*n, T)
    labels: Tensor  # (K*n, ...), see `experiments.training.losses`
    extra: dict[str, Tensor] = field(default_factory=dict)  # more inputs of the model, (K*n, ...)

    def inputs(self) -> dict[str, Tensor]:
        """What the model is called with. Packed texts have no mask: positions tell them apart."""
        mask = {} if "position_ids" in self.extra else {"attention_mask": self.attention_mask}
        return {"input_ids": self.input_ids, **mask, **self.extra}

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with each of its tensors changed."""
        extra = {name: change(tensor) for name, tensor in self.extra.items()}
        return Batch(change(self.input_ids), change(self.attention_mask), change(self.labels), extra)

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


def of_tokens(labels: Tensor) -> bool:
    """Whether labels are tokens, (rows, T), and not classes or values."""
    return labels.dim() == 2 and not labels.is_floating_point()


def gather(encoded, rows: Tensor, length: int | None = None) -> Batch:
    """The given rows of an encoded split, cut to `length` columns if one is stated (padding only is cut)."""
    writes = "decoder_input_ids" in encoded.extra  # then the labels are as long as what is written

    def part(tensor: Tensor, aligned: bool = True) -> Tensor:
        return tensor[rows][:, :length] if aligned and tensor.dim() == 2 else tensor[rows]

    return Batch(
        part(encoded.input_ids),
        part(encoded.attention_mask),
        part(encoded.labels, of_tokens(encoded.labels) and not writes),
        {name: part(t, not name.startswith("decoder")) for name, t in encoded.extra.items()},
    )


def length_groups(encoded, rows: Sequence[Tensor], *, fixed: float) -> list[tuple[list[Tensor], int]]:
    """Rows of K runs in groups of about equal length, so that little padding is computed.

    Each run's rows are sorted by length and cut into groups, each of equally many of each run, as packs need
    them, at the places that make the sum of what groups cost least. Padding has no part in a result, so
    neither has the grouping, but for rounding.

    Args:
        encoded: The split.
        rows: For each run its row numbers, equally many.
        fixed: What a forward pass costs beside its tokens, in tokens.

    Returns:
        Groups: for each run its row numbers; and the columns to read.
    """
    lengths, whole = encoded.attention_mask.sum(1), encoded.input_ids.shape[1]
    ordered = torch.stack([r[lengths[r].argsort(stable=True)] for r in rows])  # (K, count)
    longest = lengths[ordered].amax(0)  # (count,), rising
    columns, counts = torch.unique_consecutive(_rounded(longest, ROUNDED, whole), return_counts=True)
    ends = [0, *counts.cumsum(0).tolist()]  # cuts between rows of one length gain nothing
    least, cut = [0.0], [0]  # of the rows before each end: their cost, and where their last group begins
    for last, width in enumerate(columns.tolist(), start=1):
        costs = [least[i] + fixed + len(rows) * (ends[last] - ends[i]) * width for i in range(last)]
        least.append(min(costs))
        cut.append(costs.index(least[-1]))
    groups, last = [], len(columns)
    while last:
        part = ordered[:, ends[cut[last]] : ends[last]]
        groups.append((list(part), int(columns[last - 1])))
        last = cut[last]
    return groups[::-1]


def by_length(encoded, *, size: int, among: Tensor | None = None) -> list[tuple[Tensor, int]]:
    """Rows grouped for evaluation into batches of about equal length: (row numbers, columns).

    `among` are the numbers of the rows to group, if not all.

    A row's length class is its own length rounded up, to a multiple of an eighth of its highest power of two
    and of `ROUNDED` at least, so at most an eighth of long rows is padding and long texts have few classes.
    It does not depend on the rows beside it, so neither does a row's result depend on its batch.
    """
    among = torch.arange(len(encoded.input_ids)) if among is None else among
    classes = _length_class(encoded.attention_mask[among].sum(1), encoded.input_ids.shape[1])
    batches = []
    for length in classes.unique().tolist():
        batches += [(part, int(length)) for part in among[classes == length].split(size)]
    return batches


def _length_class(lengths: Tensor, longest: int) -> Tensor:
    lengths = lengths.clamp_min(1)
    step = (2 ** lengths.float().log2().floor().long() // 8).clamp_min(ROUNDED)
    return _rounded(lengths, step, longest)


def _rounded(lengths: Tensor, step: Tensor | int, longest: int) -> Tensor:
    """Up to a multiple of `step`, `longest` at most."""
    return ((lengths + step - 1) // step * step).clamp(1, longest)


@dataclass(frozen=True)
class Prefixed:
    """n examples of o rows each, the rows of one beginning with the same tokens."""

    rows: Tensor  # (n, o) row numbers
    start: Tensor  # (n,) how many tokens they share at the beginning, all before the first target's
    columns: tuple[int, int]  # at most so many tokens shared, and after them


def by_prefix(encoded, *, size: int, tokens: int) -> tuple[list[Prefixed], Tensor]:
    """Examples whose rows share at least SHARED tokens, in batches, and the numbers of all other rows.

    Args:
        encoded: A split, whose `meta` says which rows are of one example.
        size: Rows of a batch, or one example if that has more.
        tokens: Likewise.
    """
    examples: dict[int, list[int]] = {}
    for row, example in enumerate(encoded.meta.get("example", ())):
        examples.setdefault(example, []).append(row)
    groups: dict[tuple[int, int, int], list[tuple[list[int], int]]] = {}
    apart, longest = torch.ones(len(encoded.ids), dtype=torch.bool), encoded.input_ids.shape[1]
    for rows in examples.values():
        ids, mask, due = encoded.input_ids[rows], encoded.attention_mask[rows], encoded.labels[rows] != IGNORE
        common = ((ids == ids[0]) & mask.bool() & ~due).all(0)
        start = int(common.long().cumprod(0).sum()) - 1  # the last of them is read with what follows
        if len(rows) > 1 and start >= SHARED:
            sizes = torch.stack([torch.tensor(start), mask.sum(1).max() - start])
            groups.setdefault((len(rows), *_length_class(sizes, longest).tolist()), []).append((rows, start))
            apart[rows] = False
    batches = []
    for (each, *columns), members in groups.items():
        count = max(1, min(size // each, tokens // (each * sum(columns))))
        for first in range(0, len(members), count):
            part = members[first : first + count]
            rows_of, starts = torch.tensor([m[0] for m in part]), torch.tensor([m[1] for m in part])
            batches.append(Prefixed(rows_of, starts, (columns[0], columns[1])))
    return batches, apart.nonzero()[:, 0]
