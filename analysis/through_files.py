"""Simulated studies through the real pipeline: files, reading, cells, tuning, comparisons, verdicts.

A study is written as ablora's own runs leave theirs, read as a report reads it, and judged; the verdicts must
be those that the same runs get in memory, where the tables of `simulate` come from.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.compare.verdicts import judged, verdicts
from analysis.runs.cells import cells
from analysis.runs.load import read
from analysis.simulated import RATES, TUNE_SEEDS, Sample, Truth, drawn, rank_of, samples
from experiments.record import RunFolder

KINDS = {
    "no difference, one variant three times noisier": Truth(noisier=3),
    "one variant better by 2 points": Truth(effects=(0.02, 0.0, 0.0, 0.0, 0.0)),
    "one rank, better by 2 points": Truth(ranks=1, seeds=5, effects=(0.02, 0.0, 0.0, 0.0, 0.0)),
    "tuned, 1 point an octave^2": Truth(examples=1300, curvature=1.0),
    "tuned, one rank, better by 10 points": Truth(ranks=1, seeds=5, effects=(0.1, 0.0), curvature=1.0),
    "four datasets, one variant better by 1 point": Truth(datasets=4, effects=(0.01, 0.0)),
}
TUNING_SEED = 100  # the first one
_COMPARED = ("p_adjusted", "p_equivalent", "ci_low", "ci_high")


class Disagreement(NamedTuple):
    """Between a study read from files and the same in memory."""

    comparisons: int
    verdicts: int  # that differ
    numbers: float  # the largest difference of p values and ends of intervals


def disagreement(truth: Truth, seed: int) -> Disagreement:
    """How the verdicts on one simulated study differ when it goes through files."""
    runs = samples(np.random.default_rng(seed), truth)
    memory = judged(drawn(runs))
    with tempfile.TemporaryDirectory(prefix="ablora-simulated-") as place:
        write(Path(place) / "simulated", runs)
        study = read(Path(place) / "simulated")
        found = verdicts(study, cells(study), baseline="v0")
    pairs = [(_by_place(a), _by_place(b)) for a, b in zip(memory, (found.table, found.across), strict=True)]
    if any(set(a) != set(b) for a, b in pairs):
        raise AssertionError("files and memory do not hold the same comparisons")
    both = [(a[key], b[key]) for a, b in pairs for key in a]
    wrong = sum(a["verdict"] != b["verdict"] for a, b in both)
    apart = [abs(a[name] - b[name]) for a, b in both for name in _COMPARED]
    return Disagreement(len(both), int(wrong), float(np.nanmax(apart)))


def text(found: Sequence[Disagreement]) -> str:
    """What several studies gave, in a line."""
    number, wrong = sum(one.comparisons for one in found), sum(one.verdicts for one in found)
    apart = max((one.numbers for one in found), default=0.0)
    return f"{wrong} of {number} verdicts differ; p and intervals by {apart:.1g} at most"


def _by_place(table: pd.DataFrame) -> dict[tuple[Any, ...], Mapping[Any, Any]]:
    """Rows by variant, dataset and rank, the ranks of either side counted from 0."""
    rows = table.to_dict("records")
    ranks = sorted({row["r"] for row in rows if row.get("r", "all") != "all"})
    number = {**{r: i for i, r in enumerate(ranks)}, "all": "all"}
    return {(row["variant"], row.get("dataset"), number[row.get("r", "all")]): row for row in rows}


def write(study: Path, found: Mapping[str, Sample]) -> None:
    """Write the runs of a simulated study: tuning runs where rates were tuned, and those that were tested."""
    for dataset, sample in found.items():
        V, R, S = sample.right.shape[:3]
        tuned = sample.tuning.shape[3] > 0
        for v, r, p, s in np.ndindex(V, R, len(RATES) if tuned else 0, TUNE_SEEDS):
            score = {"validation/accuracy": float(sample.tuning[s, v, r, p])}
            spec = _spec(study, dataset, v, r, TUNING_SEED + s, float(RATES[p]), "tune")
            _write(study, spec, score, None)
        for v, r, s in np.ndindex(V, R, S):
            rate = float(RATES[sample.chosen[v, r]])
            scores = sample.right[v, r, s]
            spec = _spec(study, dataset, v, r, s, rate, "confirm" if tuned else "run")
            _write(study, spec, {"test/accuracy": float(scores.mean())}, scores)


def _spec(study: Path, dataset: str, v: int, r: int, seed: int, lr: float, phase: str) -> dict[str, Any]:
    return {
        "study": study.name, "variant": f"v{v}", "method": "adapters", "r": int(rank_of(np.array(r))),
        "alpha": 16.0, "targets": "qv", "model": "model", "dataset": dataset, "lr": lr, "seed": seed,
        "phase": phase, "train": {"steps": 100},
    }  # fmt: skip


def _write(study: Path, spec: dict[str, Any], metrics: dict[str, float], scores: np.ndarray | None) -> None:
    """One run folder with its spec, its record and, where it was tested, its predictions."""
    name = "-".join(str(spec[key]) for key in ("variant", "r", "dataset", "lr", "seed", "phase"))
    run = RunFolder(study / name.replace(".", "_"))
    run.path.mkdir(parents=True)
    run.write_spec(spec)
    if scores is not None:
        pq.write_table(
            pa.table({"id": [f"t{i}" for i in range(len(scores))], "score": scores}), run.predictions
        )
    record = {"run_id": run.path.name, "study": study.name, "status": "completed", "spec": spec}
    run.write_record(record | {"primary": {"metric": "accuracy", "goal": "max"}, "metrics": metrics})
