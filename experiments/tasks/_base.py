"""What a kind of task has to say, and what the kinds share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from experiments import metrics
from experiments.data._tasks import Encoded, RawTask, Rows, Task
from experiments.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

IGNORE = -100  # the target at places where no loss is due


@dataclass
class Tokens:
    """The rows of one split before they are padded: lists will be, a tensor is taken as it is."""

    ids: tuple[str, ...]
    input_ids: list[list[int]]
    # Lists of token ids with IGNORE where no loss is due; or how many tokens a row begins with that have
    # none, the others being the row's own; or a tensor.
    labels: Any
    truncated: int = 0
    extra: dict[str, list[list[int]]] = field(default_factory=dict)
    meta: dict[str, list[Any]] = field(default_factory=dict)  # see `Encoded.meta`


@dataclass
class Outputs:
    """What one run's forward passes gave for each row of a split."""

    total: "Tensor"  # (N,) float32, the summed loss in nats
    targets: "Tensor"  # (N,) over how many targets it was summed
    predicted: "Tensor"  # (N,) class numbers or values, (N, C) logits; see `training.losses` for tokens
    answers: list[str] | None = None  # generated, by example


@dataclass(frozen=True)
class Scores:
    """One run on one split. The columns follow the order of the split's examples."""

    metrics: dict[str, float]  # "loss", "accuracy", ...
    columns: dict[str, list[Any]]  # label, prediction (text or None), score, loss, and what the kind adds
    # `score` is the example's part in the primary metric where that is a mean over examples; `loss` is in
    # nats, for text the mean over the target tokens.


class Kind:
    """One kind of task. Methods that only some kinds change have a default here."""

    name: str
    head = "classification"  # the class of model: "classification" or "causal"
    metrics: tuple[str, ...] = ()  # computed when the dataset names none; the first is primary
    room: str | None = None  # of `experiments.metrics`: what its predictions are
    learns = "train"  # only the rows of this split may be made otherwise than those that are evaluated
    # Of logits and labels, `training.losses.RowLosses`; None: by the form of the labels.
    loss: Callable[["Tensor", "Tensor"], Any] | None = None

    def outputs(self, raw: RawTask) -> int:
        """How many numbers the model's head gives for a row; 0 for language models."""
        return 0

    def reads(self, tokenizer: "PreTrainedTokenizerBase") -> str:
        """What of a tokenizer decides the tensors, beside its vocabulary and special tokens."""
        return ""

    def remarks(self, raw: RawTask, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
        """How the tokenizer is used, for the notes of a run."""
        return []

    def tokens(
        self,
        raw: RawTask,
        split: str,
        tokenizer: "PreTrainedTokenizerBase",
        limit: int,
        *,
        decoder_start: int | None = None,
    ) -> Tokens:
        """The rows of a split as token ids, none longer than `limit`.

        Args:
            raw: The task; its `splits[split]` is encoded.
            split: "train", "validation" or "test".
            tokenizer: Of the model.
            limit: Tokens.
            decoder_start: The token that an encoder-decoder begins to write with; None for other models.
        """
        raise NotImplementedError

    def measured(self, chosen: Sequence[str] | None) -> tuple[str, ...]:
        """The metrics of a task, the primary one first; UserError for one that it cannot have."""
        allowed = ["loss", *(metrics.names(self.room) if self.room else []), *self.metrics]
        for name in chosen or ():
            if name not in allowed:
                raise UserError(metrics.unfit(name, self.name, list(dict.fromkeys(allowed))))
        return tuple(dict.fromkeys([*(chosen or ()), *self.metrics]))

    def generates(self, names: Sequence[str]) -> bool:
        """Whether these metrics need answers that the model writes."""
        return False

    def score(self, task: Task, encoded: Encoded, outputs: Outputs) -> Scores:
        """The metrics of a run on a split, and a row per example."""
        raise NotImplementedError


def tokenised(
    texts: Sequence[Any], tokenizer: "PreTrainedTokenizerBase", limit: int
) -> tuple[list[list[int]], list[list[int]], int]:
    """Input ids and token types of texts or pairs of texts, and how many were cut to `limit`."""
    encoded = _call(tokenizer, texts)
    ids, types = encoded["input_ids"], encoded.get("token_type_ids") or [[] for _ in texts]
    long = [index for index, row in enumerate(ids) if len(row) > limit]
    if long:  # cut by the tokenizer itself, which keeps its closing token, and of a pair cuts the longer
        cut = _call(tokenizer, [texts[index] for index in long], truncation=True, max_length=limit)
        for place, index in enumerate(long):
            ids[index] = cut["input_ids"][place]
            if "token_type_ids" in cut:
                types[index] = cut["token_type_ids"][place]
    return ids, types, len(long)


def _call(tokenizer: Any, texts: Sequence[Any], **options: Any) -> Mapping[str, Any]:
    options = {"truncation": False, "split_special_tokens": True, **options}
    if texts and not isinstance(texts[0], str):
        firsts, seconds = (list(part) for part in zip(*texts, strict=True))
        return tokenizer(firsts, seconds, verbose=False, **options)
    return tokenizer(list(texts), verbose=False, **options)


def inputs(rows: Rows) -> list[Any]:
    """The texts, or the pairs of texts, of rows."""
    return list(zip(rows.texts, rows.seconds, strict=True)) if rows.seconds else list(rows.texts)


def encoded_texts(rows: Rows, labels: Any, tokenizer: "PreTrainedTokenizerBase", limit: int) -> Tokens:
    """Texts or pairs with a target each; token types where pairs need them and the tokenizer has them."""
    ids, types, cut = tokenised(inputs(rows), tokenizer, limit)
    typed = bool(rows.seconds) and "token_type_ids" in tokenizer.model_input_names
    return Tokens(rows.ids, ids, labels, cut, {"token_type_ids": types} if typed else {})


def scored(
    task: Task, predictions: Sequence[Any], references: Sequence[Any], loss: float
) -> dict[str, float]:
    """The task's metrics; "loss" is there anyway."""
    wanted = [name for name in task.metrics if name != "loss"]
    return {"loss": loss} | metrics.compute(wanted, predictions, references, _room(task))


def parts(
    task: Task, predictions: Sequence[Any], references: Sequence[Any], other: list[float]
) -> list[float]:
    """Each example's part in the primary metric, or `other` where that is no mean over examples."""
    if task.metric != "loss" and metrics.is_mean(task.metric):
        return metrics.per_example(task.metric, predictions, references, _room(task))
    return other


def statistics(task: Task, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, list[Any]]:
    """Columns from which corpus metrics of other samples of the examples can be made."""
    return metrics.statistics(task.metrics, predictions, references, _room(task))


def _room(task: Task) -> str | None:
    from experiments.tasks import kind_of

    return kind_of(task.kind).room
