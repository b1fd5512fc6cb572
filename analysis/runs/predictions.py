"""Per-example scores of runs, read only when they are what the record says they are.

A predictions file counts when its checksum is the record's, its ids are unique, its scores are finite and
their mean is the recorded metric. Metrics that are no mean over examples are taken apart into values whose
mean they are (`influence`): F1 and Matthews' correlation from labels and predictions, corpus metrics such as
BLEU from the statistics that the file holds of each example. An accuracy that is not the mean of its own
scores makes the whole run unusable.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analysis.runs.measured import samples
from analysis.runs.rows import Problem
from analysis.stats import influence
from experiments.record import RunFolder

TOLERANCE = 1e-6
MEANS = ("accuracy", "exact_match")  # metrics that are a mean over examples by definition


class _Unusable(Exception):
    """Why a predictions file cannot be used."""


class _Contradiction(Exception):
    """How a record contradicts the predictions beside it."""


class Scores(NamedTuple):
    """The scores (N,) of a run in the order of its sorted example ids, and a hash of those ids."""

    values: np.ndarray
    ids: str


class Blind(NamedTuple):
    """What answers that look at no example score."""

    score: float
    metric: str
    name: str  # of its line in a figure
    text: str  # of a sentence


BLIND = {  # by the column of predictions that shows it
    "likelihood": ("accuracy", "chance", "guessing among the options"),
    "reference": ("exact_match", "most frequent answer", "the most frequent answer alone"),
    "label": ("accuracy", "majority class", "the most frequent class alone"),
}


class Predictions:
    """Scores by run, read once; `problems` names the files that could not be used.

    Args:
        records: the records of a study by run_id.
        path: the folder of a run.
    """

    def __init__(self, records: Mapping[str, Mapping[str, Any]], path: Callable[[str], RunFolder]):
        self.problems: list[Problem] = []
        self.contradictions: list[Problem] = []  # runs that cannot be used at all
        self._records, self._path = records, path
        self.of = functools.cache(self._of)
        self.one_answer = functools.cache(self._one_answer)
        self.blind = functools.cache(self._blind)
        self._last: tuple[pa.Array, np.ndarray, str] | None = (
            None  # runs of a study mostly share their test set
        )

    def check(self) -> set[str]:
        """The completed runs whose metric is a mean by definition, yet not that of their own scores."""
        for run_id, record in self._records.items():
            if record["status"] == "completed" and record["primary"]["metric"] in MEANS:
                self.of(run_id)
        return {problem.run for problem in self.contradictions}

    def _of(self, run_id: str) -> Scores | None:
        """The scores of a completed run, or None when it has none that can be used."""
        try:
            return self._read(run_id)
        except _Unusable as error:
            self.problems.append(Problem(run_id, f"predictions.parquet {error}; its examples are not used"))
        except _Contradiction as error:
            self.contradictions.append(Problem(run_id, f"{error}; not used"))
        return None

    def columns(self, run_id: str, *names: str) -> pa.Table | None:
        """Those of these columns that a run's predictions have; None if nothing can be read, see `of`."""
        try:
            return pq.ParquetFile(self._path(run_id).predictions).read(names, use_threads=False)
        except (OSError, pa.ArrowException):
            return None

    def _one_answer(self, run_id: str) -> bool:
        """Whether a run answered all examples alike, though their labels differ; False if that is unknown."""
        table = self.columns(run_id, "label", "prediction")
        if table is None or table.num_columns < 2:
            return False
        return len(pc.unique(table["prediction"])) == 1 < len(pc.unique(table["label"]))

    def _blind(self, run_id: str) -> Blind | None:
        """The best that needs no look at a run's test examples; None where the answers are no classes.

        The most frequent class, or the most frequent answer that is written; where each example has options
        of its own, a guess among them: 1 / their number. Over several test sets it is the mean of theirs.
        """
        read = self.columns(run_id, "id", *BLIND)
        column = next((name for name in BLIND if read is not None and name in read.column_names), None)
        names = self._records[run_id].get("metrics") or {}
        if read is None or column is None or "id" not in read.column_names:
            return None
        if f"test/{BLIND[column][0]}" not in names:
            return None
        table = read.select(["id", column]).to_pandas()
        several = any(n.startswith("test/") and n.count("/") == 2 for n in names)  # test/SET/accuracy
        sets = table["id"].str.partition("/")[0] if several else np.zeros(len(table))
        shares = []
        for _, answers in table[column].groupby(sets):
            if column == "likelihood":
                shares.append((1 / answers.map(len)).mean())
                continue
            counts = (answers.str[0] if column == "reference" else answers).value_counts()
            if not 1 < len(counts) <= len(answers) / 2:
                return None
            shares.append(counts.max() / len(answers))
        return Blind(float(np.mean(shares)), *BLIND[column])

    def _read(self, run_id: str) -> Scores | None:
        record, folder = self._records[run_id], self._path(run_id)
        name, chosen = record["primary"]["metric"], "instead_of" in record["primary"]
        file, column = samples(name) or (Path(folder.predictions.name), "score")
        path = folder.path / file
        metric = record["metrics"].get(f"test/{name}")
        expected = (record.get("files") or {}).get(str(file))
        if metric is None:
            return None
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            if expected:
                raise _Unusable("is missing, though the record lists it") from None
            return None
        except OSError as error:
            raise _Unusable(f"cannot be read: {error.strerror}") from error
        if expected and hashlib.sha256(content).hexdigest() != expected:
            raise _Unusable("differs from its checksum: changed or truncated after the run")
        values, ids = _columns(content, name, column)
        order, digest = self._order(ids)
        if not any(abs(v.mean() - metric) <= TOLERANCE * max(1.0, abs(metric)) for v in values):
            both = f"{values[0].mean():.4f}, the record says {metric:.4f}"
            if name in MEANS and not chosen:
                raise _Contradiction(f"by its predictions its {name.replace('_', ' ')} is {both}")
            if name in influence.METRICS:
                raise _Unusable(f"has predictions whose {name} is {both}")
            return None
        best = min(values, key=lambda v: abs(v.mean() - metric))
        return Scores(best[order], digest)

    def _order(self, ids: pa.Array) -> tuple[np.ndarray, str]:
        if self._last is not None and ids.equals(self._last[0]):
            return self._last[1], self._last[2]
        order = pc.sort_indices(ids).to_numpy()
        ordered = ids.take(pa.array(order))
        if len(pc.unique(ids)) != len(ids):
            raise _Unusable("has the same example more than once")
        digest = hashlib.sha256("\0".join(map(str, ordered.to_pylist())).encode()).hexdigest()
        self._last = (ids, order, digest)
        return order, digest


def _columns(content: bytes, name: str, score: str = "score") -> tuple[list[np.ndarray], pa.Array]:
    """What may be the examples' part in the metric, each (N,), and their ids."""
    counts, taken = f"statistics/{name}", [score]
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        of_corpus = counts in file.schema_arrow.names
        taken = ["label", "prediction"] if name in influence.METRICS else [counts if of_corpus else score]
        taken += ["loss"] if name == "loss" else []
        table = file.read(["id", *taken], use_threads=False)
        ids, columns = table["id"].combine_chunks(), [table[column].to_numpy() for column in taken]
        if name in influence.METRICS and len(table) > 1:
            values = _of_classes(name, *(column.astype(str) for column in columns))
        elif of_corpus and len(table) > 1:
            values = [influence.of_statistics(name, np.stack(columns[0]))]
        else:
            values = [column.astype(float) for column in columns]
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise _Unusable(f"cannot be read, or lacks the columns id and {' and '.join(taken)}") from error
    if not len(table) or not all(np.isfinite(v).all() for v in values):
        raise _Unusable("holds a score that is no finite number, or none at all")
    return values, ids


def _of_classes(name: str, labels: np.ndarray, guesses: np.ndarray) -> list[np.ndarray]:
    """The examples' parts in a metric of classes; in F1, with each class as the positive one."""
    if name != "f1":
        return [influence.pseudo_values(name, labels, guesses)]
    classes = np.unique(np.concatenate([labels, guesses]))
    return [influence.pseudo_values(name, labels == one, guesses == one) for one in classes]
