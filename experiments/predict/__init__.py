"""What finished runs and adapters say about new texts: many of them on one loaded base, in one batch.

    predictor = Predictor([open_source(path) for path in paths])
    answers = predictor(["a text", "another"])     # name -> one answer per text, of all of them
    predictor.use(name)                            # this one alone from here on; the base is not loaded again

Runs that can share a forward pass do, as they did in training: every row goes through its own run's adapter.
The first use of a selection puts its adapters on the base, which takes no copy of the base; after that a
change of selection is a look-up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from experiments import data
from experiments.artifacts import Source, check_one_base, load_base, put_back
from experiments.data import Conversation
from experiments.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

BATCH = 32  # texts in a forward pass


@dataclass(frozen=True)
class Answer:
    """What one run says to one text."""

    prediction: str  # the class, or the text that was written
    scores: dict[str, float] | None = None  # the probability of each class


class Predictor:
    """Sources on one base. Call it with texts; `use` chooses who answers."""

    def __init__(self, sources: Sequence[Source], *, merged: bool = False) -> None:
        """Load the base and check that each source fits.

        Args:
            sources: Runs and adapters that stand on one base with the same classes, no name twice.
            merged: Whether each answers as a plain model without adapters, one after another: no added
                latency, but a copy of the adapted maps for each.
        """
        names = [source.name for source in sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(f"{twice[0]} is given twice. Give each run once, under a folder name of its own")
        check_one_base(sources)
        self.sources = {source.name: source for source in sources}
        self.merged = merged
        self.base = load_base(sources[0])
        self._packs: dict[tuple[str, ...], nn.Module] = {}
        self.selected = tuple(names)

    @property
    def kind(self) -> str:
        """Of the task: "classification" or "causal"."""
        return next(iter(self.sources.values())).kind

    def use(self, *names: str) -> "Predictor":
        """Let these runs answer, in this order."""
        for name in names:
            if name not in self.sources:
                known = ", ".join(self.sources)
                raise UserError(
                    f"there is no {name!r} here.{did_you_mean(name, self.sources)} Loaded: {known}"
                )
        self.selected = names
        return self

    def __call__(
        self, texts: Sequence[str | Conversation], *, batch_size: int = BATCH, max_new_tokens: int = 64
    ) -> dict[str, list[Answer]]:
        """The answers of every selected run, by its name, one per text.

        Args:
            texts: Texts, or for text generation also conversations without their last turn.
            batch_size: Texts of each run in a forward pass.
            max_new_tokens: For text generation, the longest answer.
        """
        answers: dict[str, list[Answer]] = {}
        for names in self.packs():
            pack = [self.sources[name] for name in names]
            answers |= zip(names, self._ask(pack, texts, batch_size, max_new_tokens), strict=True)
        return {name: answers[name] for name in self.selected}

    def packs(self) -> Iterator[tuple[str, ...]]:
        """The selected runs, together where one forward pass can serve them."""
        groups: dict[Any, list[str]] = {}
        for name in self.selected:
            source = self.sources[name]
            alone = self.merged or source.adapter is None or not self._shareable
            stored = (source.storage, *source.storage_options.items())
            key = name if alone else (stored, source.precision, source.max_length, self._spaced[name])
            groups.setdefault(key, []).append(name)
        yield from (tuple(sorted(group, key=self._stacking)) for group in groups.values())

    def _stacking(self, name: str) -> tuple[str, int]:
        """Like adapters side by side share one stacked operation."""
        spec = self.sources[name].spec
        return (spec.variant, spec.r or 0) if spec else ("", 0)

    @cached_property
    def _spaced(self) -> dict[str, bool]:
        """Whether each run learned completions that begin with white space, after which no break is due."""
        causal = self.kind == "causal"
        return {
            name: bool(causal and source.spec and data.completions_spaced(source.spec))
            for name, source in self.sources.items()
        }

    @cached_property
    def _shareable(self) -> bool:
        """Whether this base can serve several runs at once; DeBERTa's maps of positions cannot."""
        from variants import fed_without_batch

        return len(self.sources) == 1 or not fed_without_batch(self.base.model)

    def _ask(
        self, pack: Sequence[Source], texts: Sequence[Any], size: int, longest: int
    ) -> list[list[Answer]]:
        if not texts:
            return [[] for _ in pack]
        from experiments.predict._answer import classify, generate

        model = self.model([source.name for source in pack])
        if self.kind == "causal":
            options = pack[0].dataset_options
            conversations = [data.as_prompt(t, options) if isinstance(t, str) else t for t in texts]
            spaced = self._spaced[pack[0].name]
            return generate(model, self.base, pack, conversations, size=size, longest=longest, spaced=spaced)
        return classify(model, self.base, pack, texts, size=size)

    def model(self, names: Sequence[str]) -> "nn.Module":
        """The model of a pack of these runs, in evaluation mode."""
        names = tuple(names)
        if names not in self._packs:
            import torch

            from variants import merge

            attached = put_back(self.base, [self.sources[name] for name in names])
            self._packs[names] = attached.model
            if self.merged:
                try:
                    self._packs[names] = merge(attached, 0, dtype=torch.float32).eval()
                except ValueError as error:
                    raise UserError(f"{names[0]}: {error} Leave out --merged") from error
        return self._packs[names]
