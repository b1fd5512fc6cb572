"""What the modules of `evaluate` here have in common: whether more is better, and what goes in."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

_INT, _FLOAT, _TEXT = (datasets.Value(kind) for kind in ("int64", "float64", "string"))


class Metric(evaluate.Metric):
    """A metric whose docstring is its description. `feature` and `reference` are the types of its inputs."""

    goal = "max"
    is_mean = False  # over examples; then `one` gives an example's part
    feature: Any = _INT
    reference: Any = _INT

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            inputs_description="predictions, references: in the same order.",
            features=datasets.Features({"predictions": self.feature, "references": self.reference}),
        )

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, float]:
        """A mean over examples, unless a metric says otherwise."""
        parts = [self.one(p, r) for p, r in zip(predictions, references, strict=True)]
        return {self.__module__.rpartition(".")[2]: sum(parts) / len(parts)}

    def one(self, prediction: Any, reference: Any) -> float:
        """An example's part in the mean."""
        raise NotImplementedError

    def statistics(self, predictions: list[Any], references: list[Any]) -> list[list[float]] | None:
        """What `resampling` makes the metric of, by example; None where there is no such thing."""
        return None


class Mean(Metric):
    """A metric that is a mean over examples."""

    is_mean = True


class Sets(Metric):
    """Of sets of class numbers."""

    feature = reference = datasets.Sequence(_INT)


class Values(Metric):
    """Of numbers."""

    feature = reference = _FLOAT

    def statistics(self, predictions: list[float], references: list[float]) -> list[list[float]]:
        """The pairs."""
        return [[float(p), float(r)] for p, r in zip(predictions, references, strict=True)]


class Answers(Metric):
    """Of texts with any number of references each."""

    feature, reference = _TEXT, datasets.Sequence(_TEXT)


class Scored(Answers):
    """A metric of sacrebleu over all texts."""

    scorer: Any  # made by the class; its parts are underscored, and the same since sacrebleu 2.0

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        score = self.scorer().corpus_score(predictions, streams(references)).score
        return {self.__module__.rpartition(".")[2]: score}

    def statistics(self, predictions: list[str], references: list[list[str]]) -> list[list[float]]:
        """Counts of each text against its references."""
        return list(self.scorer()._extract_corpus_statistics(predictions, streams(references)))


class MeanAnswers(Answers, Mean):
    """A mean over texts."""


def streams(references: Sequence[Sequence[str]]) -> list[list[Any]]:
    """References as sacrebleu takes them: the first of every example, then the second; None for none."""
    most = max(map(len, references))
    return [[row[i] if i < len(row) else None for row in references] for i in range(most)]
