"""Examples that flip: right with one variant, wrong with another; with their texts where the data is there.

An example's id begins with the SHA-256 of its text, so any table that holds the text gives it back.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.compare.verdicts import Verdicts
from analysis.runs.load import Study
from analysis.runs.rows import Row, each
from experiments.errors import UserError

LEAST = 0.5  # of the score, as a mean over seeds: what flips
SHOWN = 8  # of each direction
_ID = 12  # hexadecimal digits
_TABLES = {".csv": ",", ".tsv": "\t", ".parquet": ""}


@dataclass(frozen=True)
class Flip:
    """One example on which two variants differ; scores are means over the seeds that both have."""

    id: str
    label: str
    variant: float
    baseline: float
    said: str  # by the variant, most often
    said_baseline: str
    text: str = ""

    @property
    def gained(self) -> bool:
        """Whether the variant is the better one here."""
        return self.variant > self.baseline


@dataclass(frozen=True)
class Flips:
    """All flips between a cell of a variant and one of the baseline."""

    variant: str
    baseline: str
    r: float
    dataset: str
    seeds: int
    examples: int
    found: list[Flip] = field(default_factory=list)

    @property
    def gained(self) -> list[Flip]:
        """Those that the variant wins."""
        return [flip for flip in self.found if flip.gained]

    @property
    def lost(self) -> list[Flip]:
        """Those that the baseline wins."""
        return [flip for flip in self.found if not flip.gained]


def flips(
    study: Study,
    cells: pd.DataFrame,
    found: Verdicts,
    variant: str,
    r: float | None,
    texts: Path | None = None,
) -> Flips | None:
    """The flips of a variant beside the baseline, in the first setting where both kept their predictions.

    Args:
        study: the records.
        cells: its cells.
        found: its verdicts.
        variant: a series.
        r: the rank at which the two are compared, if it was run; else the last of those that were.
        texts: a table that holds the examples' texts, beside what the data's own path holds.
    """
    by_key = {(cell["cell_key"], cell["stack"]): cell for cell in each(cells[cells["final"].astype(bool)])}
    for row in each(found.overall[found.overall["variant"] == variant]):
        keys = list(row["cells"])
        pairs = list(zip(keys[: len(keys) // 2], keys[len(keys) // 2 :], strict=True))
        ours, plain = next(
            ((by_key[a], by_key[b]) for a, b in pairs if by_key[a]["r"] == r),
            (by_key[pairs[-1][0]], by_key[pairs[-1][1]]),
        )
        both = _both(study, ours, plain)
        if both is not None:
            known = _texts(study, ours, both.found, texts)
            named = [_with_text(flip, known) for flip in both.found]
            return Flips(both.variant, both.baseline, both.r, both.dataset, both.seeds, both.examples, named)
    return None


def _both(study: Study, ours: Row, plain: Row) -> Flips | None:
    """The flips between two cells; None where their runs left no answers that can be compared, but losses."""
    if ours["goal"] == "min":
        return None
    seeds = sorted(set(ours["by_seed"]) & set(plain["by_seed"]))
    tables = [
        [
            _answers(study, cell["by_seed"][seed])
            for seed in seeds
            if study.predictions.of(cell["by_seed"][seed])
        ]
        for cell in (ours, plain)
    ]
    if not seeds or any(len(side) < len(seeds) or any(t is None for t in side) for side in tables):
        return None
    sides = [pd.concat([table for table in side if table is not None]) for side in tables]
    means = [side.groupby("id")["score"].mean() for side in sides]
    if not means[0].index.equals(means[1].index):
        return None
    apart = means[0] - means[1]
    wanted = apart[apart.abs() >= LEAST]
    order = sorted(wanted.index, key=lambda name: (-abs(wanted[name]), name))
    said = [_said(side[side["id"].isin(wanted.index)]) for side in sides]
    label = sides[0].drop_duplicates("id").set_index("id")["label"]
    out = [
        Flip(name, label[name], means[0][name], means[1][name], said[0][name], said[1][name])
        for name in order
    ]
    return Flips(ours["series"], plain["series"], ours["r"], ours["dataset"], len(seeds), len(apart), out)


def _answers(study: Study, run_id: str) -> pd.DataFrame | None:
    """What a run said of each example: id, label, prediction, score."""
    try:
        table = pq.ParquetFile(study.path(run_id).predictions).read(
            ["id", "label", "prediction", "score"], use_threads=False
        )
    except (OSError, KeyError, pa.ArrowException):
        return None
    frame = pd.DataFrame({name: table[name].to_pylist() for name in table.column_names})
    return frame if np.isfinite(frame["score"].to_numpy(float)).all() else None


def _said(answers: pd.DataFrame) -> dict[str, str]:
    """The most frequent answer of several runs to each example."""
    return {
        str(name): str(Counter(group["prediction"].astype(str)).most_common(1)[0][0])
        for name, group in answers.groupby("id")
    }


def _with_text(flip: Flip, texts: Mapping[str, str]) -> Flip:
    text = texts.get(flip.id[:_ID], "")
    return Flip(
        flip.id,
        flip.label,
        flip.variant,
        flip.baseline,
        flip.said,
        flip.said_baseline,
        " ".join(text.split()),
    )


def _texts(study: Study, cell: Row, found: Iterable[Flip], extra: Path | None) -> dict[str, str]:
    """The texts of examples by the head of their id, out of the tables that are there."""
    wanted = {flip.id[:_ID] for flip in found}
    options: Mapping[str, Any] = study.records[cell["run_ids"][0]]["spec"].get("dataset_options") or {}
    own = options.get("path")
    paths = [Path(path) for path in ([own] if isinstance(own, str) else []) if Path(path).is_file()]
    out: dict[str, str] = {}
    for path in [*paths, *([extra] if extra else [])]:
        for text in _cells(path, strict=path == extra) if wanted else ():
            head = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_ID]
            if head in wanted:
                out[head] = text
    return out


def _cells(path: Path, *, strict: bool) -> Iterable[str]:
    """Every text in a table; with `strict` UserError where it cannot be read."""
    sign = _TABLES.get(path.suffix)
    try:
        if sign is None:
            raise ValueError(f"it is none of {', '.join(_TABLES)}")
        frame = (
            pd.read_csv(path, sep=sign, dtype=str, keep_default_na=False) if sign else pd.read_parquet(path)
        )
    except (OSError, ValueError) as error:
        if strict:
            raise UserError(f"cannot read texts from {path}: {error}.") from error
        return
    for name in frame:
        yield from (text for text in frame[name] if isinstance(text, str))
