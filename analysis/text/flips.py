"""Examples that flip: right with one variant, wrong with another; with their texts where the data is there.

An example's id begins with the SHA-256 of its text, so any table that holds the text gives it back.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.compare.verdicts import Verdicts
from analysis.runs.cells import by_key
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
    final = by_key(cells)
    for row in each(found.overall[found.overall["variant"] == variant]):
        pairs = [(final[a], final[b]) for a, b in zip(*row["cells"], strict=True)]
        ours, plain = next((pair for pair in pairs if pair[0]["r"] == r), pairs[-1])
        both = _both(study, ours, plain)
        if both is not None:
            known = _texts(study, ours, both.found, texts)
            return replace(both, found=[replace(f, text=known.get(f.id[:_ID], "")) for f in both.found])
    return None


def _both(study: Study, ours: Row, plain: Row) -> Flips | None:
    """The flips between two cells; None where their runs left no answers that can be compared."""
    seeds = sorted(set(ours["by_seed"]) & set(plain["by_seed"]))
    tables = [[_answers(study, cell["by_seed"][seed]) for seed in seeds] for cell in (ours, plain)]
    if not seeds or any(table is None for side in tables for table in side):
        return None
    sides = [pd.concat(side) for side in tables]
    means = [side.groupby("id")["score"].mean() for side in sides]
    if not means[0].index.equals(means[1].index):
        return None
    apart = means[0] - means[1]
    wanted = apart[apart.abs() >= LEAST]
    order = sorted(wanted.index, key=lambda i: (-abs(wanted[i]), i))
    said = [_said(side[side["id"].isin(wanted.index)]) for side in sides]
    label = sides[0].drop_duplicates("id").set_index("id")["label"]
    out = [Flip(i, label[i], means[0][i], means[1][i], said[0][i], said[1][i]) for i in order]
    return Flips(ours["series"], plain["series"], ours["r"], ours["dataset"], len(seeds), len(apart), out)


def _answers(study: Study, run_id: str) -> pd.DataFrame | None:
    """What a run said of each example: id, label, prediction, score; None where that cannot be used."""
    names = ("id", "label", "prediction", "score")
    table = study.predictions.columns(run_id, *names) if study.predictions.of(run_id) else None
    if table is None or table.num_columns < len(names):
        return None
    frame = pd.DataFrame(table.to_pydict())
    return frame if np.isfinite(frame["score"].to_numpy(float)).all() else None


def _said(answers: pd.DataFrame) -> dict[str, str]:
    """The most frequent answer of several runs to each example."""
    return {
        str(name): str(Counter(group["prediction"].astype(str)).most_common(1)[0][0])
        for name, group in answers.groupby("id")
    }


def _texts(study: Study, cell: Row, found: Iterable[Flip], extra: Path | None) -> dict[str, str]:
    """The texts of examples, on one line, by the head of their id, out of the tables that are there."""
    wanted = {flip.id[:_ID] for flip in found}
    options: Mapping[str, Any] = study.records[cell["run_ids"][0]]["spec"].get("dataset_options") or {}
    own = options.get("path")
    paths = [Path(path) for path in ([own] if isinstance(own, str) else []) if Path(path).is_file()]
    out: dict[str, str] = {}
    for path in [*paths, *([extra] if extra else [])]:
        for text in _cells(path, strict=path == extra) if wanted else ():
            head = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_ID]
            if head in wanted:
                out[head] = " ".join(text.split())
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
