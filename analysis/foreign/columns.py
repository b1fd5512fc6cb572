"""Tables of runs as people write them: which column is what, and its values, checked one by one."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis.foreign.result import Result, status_of
from analysis.runs.measured import LESS_IS_BETTER
from experiments.errors import UserError, did_you_mean

NAMES = {
    "method": ("method", "variant", "peft_type", "peft_method", "adapter", "algorithm", "approach"),
    "task": ("task", "dataset", "data", "benchmark", "dataset_name", "task_name"),
    "model": ("model", "base_model", "model_name", "model_id", "model_name_or_path"),
    "rank": ("rank", "r", "lora_r", "lora_rank"),
    "alpha": ("alpha", "lora_alpha"),
    "lr": ("lr", "learning_rate", "learningrate", "max_lr", "peak_lr"),
    "seed": ("seed", "random_seed", "run", "trial", "replicate", "repetition"),
    "split": ("split", "subset", "evaluated_on"),
    "n": ("n", "n_test", "num_examples", "n_examples", "test_rows", "examples", "test_size", "support"),
    "status": ("status", "state"),
    "phase": ("phase",),
    "steps": ("steps", "max_steps", "train_steps"),
    "batch_size": ("batch_size", "train_batch_size", "per_device_train_batch_size"),
    "trainable_parameters": ("trainable_parameters", "num_trainable_params", "trainable_params", "params"),
    "total_parameters": ("total_parameters", "num_total_params", "total_params"),
    "peak_bytes": ("peak_bytes", "peak_memory_bytes", "accelerator_memory_max"),
    "train_seconds": ("train_seconds", "train_time", "train_runtime", "runtime"),
    "step_ms": ("step_ms",),
    "device": ("device", "gpu", "accelerator", "gpu_type"),
}
METRICS = {
    "accuracy": ("accuracy", "acc", "score"), "exact_match": ("exact_match", "em"),
    "f1": ("f1", "f1_score"), "macro_f1": ("macro_f1", "f1_macro"),
    "matthews": ("matthews", "mcc", "matthews_correlation"), "pearson": ("pearson", "pearsonr"),
    "spearman": ("spearman", "spearmanr"), "bleu": ("bleu",), "rouge_l": ("rouge_l", "rougel"),
    "perplexity": ("perplexity", "ppl"), "loss": ("loss",),
}  # fmt: skip
_SPLITS = {
    "test": ("test", "eval", "evaluation", "final"),
    "validation": ("validation", "valid", "val", "dev"),
}
_COSTS = ("trainable_parameters", "total_parameters", "peak_bytes", "train_seconds", "step_ms")
_TRAIN = ("steps", "batch_size")
_EMPTY = ("", "-", "none", "null", "n/a", "na", "\u2013", "\u2014")
_NOT_FINITE = ("nan", "inf", "-inf", "infinity", "-infinity")


def plain(name: str) -> str:
    """A column's name without case, spaces and signs: "Test Accuracy (%)" is test_accuracy."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def last(name: str) -> str:
    """The last part of a dotted name: "train.steps" is steps."""
    return plain(name.rsplit(".", 1)[-1])


class Columns:
    """The columns of one table by what they hold; UserError where a needed one is missing or is two.

    Args:
        names: as the table has them.
        place: the file, for messages.
        metric: the score to read, where there are several.
    """

    def __init__(self, names: Sequence[str], place: str, metric: str | None = None):
        self.place, self.names = place, [str(name) for name in names]
        self.of = {key: self._one(key) for key in NAMES}
        self.metric, self.test, self.validation = self._scores(metric)
        for key in ("method", "task"):
            if self.of[key] is None:
                raise UserError(self._lacks(key, NAMES[key]))

    def _one(self, key: str) -> str | None:
        for form in (plain, last):  # a name as it stands comes before one that only ends so
            for wanted in NAMES[key]:
                found = [name for name in self.names if form(name) == wanted]
                if found:
                    return found[0]
        return None

    def _scores(self, wanted: str | None) -> tuple[str, str | None, str | None]:
        """The metric's name and the columns that hold it on test and on validation."""
        found: dict[str, dict[str, str]] = {}
        unsure = ""
        for name in self.names:
            words = plain(name)
            split = next((s for s, ws in _SPLITS.items() if any(words.startswith(f"{w}_") for w in ws)), "")
            metric = words.partition("_")[2] if split else words
            known = next((m for m, ws in METRICS.items() if metric in ws), None)
            if known is None and wanted is not None and plain(wanted) in (metric, words):
                known = plain(wanted)
            if split == "" and known in LESS_IS_BETTER and wanted is None:
                unsure = name
            elif known:
                found.setdefault(known, {}).setdefault(split, name)
        if wanted is not None:
            wanted = next((m for m, ws in METRICS.items() if plain(wanted) in ws), plain(wanted))
            if wanted not in found:
                there = ", ".join(sorted(found)) or "none"
                raise UserError(f"{self.place} has no column for the metric {wanted!r}; it has {there}.")
            found = {wanted: found[wanted]}
        if len(found) > 1:  # a loss beside a score is not what people compare
            found = {m: s for m, s in found.items() if m not in LESS_IS_BETTER} or found
        if len(found) > 1:
            raise UserError(
                f"{self.place} has several scores: {', '.join(sorted(found))}. Name one with --metric."
            )
        if unsure and not found:
            raise UserError(
                f"{self.place} has no score but {unsure}, which may be that of training: if it is of the "
                f"test set, add --metric {plain(unsure)}."
            )
        if not found:
            raise UserError(self._lacks("score", [w for ws in METRICS.values() for w in ws]))
        ((metric, splits),) = found.items()
        return metric, splits.get("test") or splits.get(""), splits.get("validation")

    def _lacks(self, key: str, wanted: Iterable[str]) -> str:
        near = next((name for name in self.names if did_you_mean(plain(name), wanted)), None)
        hint = f" The nearest is {near!r}: rename it." if near else ""
        return (
            f"{self.place} has no column for the {key}, which may be called "
            f"{', '.join(list(wanted)[:6])}.{hint} It has {', '.join(self.names[:12])}."
        )

    def result(self, row: Mapping[str, Any], place: str) -> Result:
        """One row as a result."""
        get = lambda key: _text(row.get(self.of[key] or "", ""))  # noqa: E731
        for key in ("method", "task"):
            if not get(key):
                raise UserError(f"{place}: the {key} is empty; every row needs one.")
        status = status_of(get("status"), place)
        test = _score(row.get(self.test or "", ""), self.test, place)
        validation = _score(row.get(self.validation or "", ""), self.validation, place)
        if (status == "completed" and math.nan in (test, validation)) or test != test:
            status = "diverged"
        split = get("split").lower()
        if split:
            known = next((s for s, words in _SPLITS.items() if split in words), None)
            if known is None:
                raise UserError(f"{place}: the split is {split!r}; it may be test or validation.")
            if known == "validation":
                test, validation = None, test
        if status == "completed" and test is None and validation is None:
            status = "failed"
        numbers = {key: _number(row.get(self.of[key] or "", ""), key, place) for key in _NUMERIC}
        return Result(
            place=place,
            method=re.sub(r"\s+", "-", get("method").lower()),
            task=get("task"),
            metric=self.metric,
            seed=_whole(numbers["seed"], "seed", place),
            score=test if status == "completed" else None,
            validation=validation if status == "completed" else None,
            n=_whole(numbers["n"], "n", place, least=1),
            model=get("model") or "unknown",
            rank=_whole(numbers["rank"], "rank", place, least=1),
            alpha=numbers["alpha"],
            lr=numbers["lr"],
            status=status,
            train={key: numbers[key] for key in _TRAIN if numbers[key] is not None},
            cost={key: value for key in _COSTS if (value := numbers[key]) is not None},
            device=get("device") or None,
            stated=self.of["status"] is not None,
            phase=get("phase") if get("phase") in ("tune", "confirm") else "",
        )


_NUMERIC = ("rank", "alpha", "lr", "seed", "n", *_TRAIN, *_COSTS)


def _text(value: Any) -> str:
    text = "" if value is None else str(value).strip()
    return "" if text.lower() in _EMPTY else text


def _number(value: Any, key: str, place: str) -> float | None:
    text = _text(value).replace("\u2212", "-")
    if re.fullmatch(r"\d{1,3}(,\d{3})+", text):  # 1,319
        text = text.replace(",", "")
    if not text or text.lower() == "nan":
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{place}: {key} is {text!r}, which is no number.")
    return number


def _whole(number: float | None, key: str, place: str, least: int = 0) -> int | None:
    if number is None:
        return None
    if number != int(number) or number < least:
        raise UserError(f"{place}: {key} is {number:g}, which is no whole number from {least} up.")
    return int(number)


def _score(value: Any, key: str | None, place: str) -> float | None:
    """A score; nan where the run has none because it diverged."""
    text = _text(value).removesuffix("%").strip()
    return math.nan if text.lower() in _NOT_FINITE else _number(text, key or "score", place)
