"""Per-example scores of runs, read only when they are what the record says they are.

A predictions file counts when its checksum is the record's, its ids are unique, its scores are finite and
their mean is the recorded metric. Metrics that are no mean over examples (F1, correlations) therefore have no
per-example scores here.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analysis.load import Problem, Study

TOLERANCE = 1e-6
MEANS = ("accuracy", "exact_match")  # metrics that are a mean over examples by definition


class _Unusable(Exception):
    """Why a predictions file cannot be used."""


class Scores(NamedTuple):
    """The scores (N,) of a run in the order of its sorted example ids, and a hash of those ids."""

    values: np.ndarray
    ids: str


class Predictions:
    """Scores by run, read once; `problems` names the files that could not be used."""

    def __init__(self, study: Study):
        self.study = study
        self.problems: list[Problem] = []
        self._known: dict[str, Scores | None] = {}
        self._last: tuple[pa.Array, np.ndarray, str] | None = (
            None  # runs of a study mostly share their test set
        )

    def of(self, run_id: str) -> Scores | None:
        """The scores of a run, or None when it has none that can be used."""
        if run_id not in self._known:
            try:
                self._known[run_id] = self._read(run_id)
            except _Unusable as error:
                self.problems.append(
                    Problem(run_id, f"predictions.parquet {error}; its examples are not used")
                )
                self._known[run_id] = None
        return self._known[run_id]

    def _read(self, run_id: str) -> Scores | None:
        record, path = self.study.records[run_id], self.study.path(run_id).predictions
        name, metric = record["primary"]["metric"], self.study.scores[run_id]
        if f"test/{name}" not in record["metrics"] or not path.is_file():
            return None
        content = path.read_bytes()
        expected = (record.get("files") or {}).get(path.name)
        if expected and hashlib.sha256(content).hexdigest() != expected:
            raise _Unusable("differs from its checksum: changed or truncated after the run")
        try:
            table = pq.ParquetFile(pa.BufferReader(content)).read(["id", "score"], use_threads=False)
            values = table["score"].to_numpy().astype(float)
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise _Unusable("cannot be read, or lacks the columns id and score") from error
        if not len(values) or not np.isfinite(values).all():
            raise _Unusable("holds a score that is no finite number, or none at all")
        order, ids = self._order(table["id"].combine_chunks())
        if abs(values.mean() - metric) > TOLERANCE * max(1.0, abs(metric)):
            if name in MEANS:
                raise _Unusable(f"has a mean score of {values.mean():.4f}, the record says {metric:.4f}")
            return None
        return Scores(values[order], ids)

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
