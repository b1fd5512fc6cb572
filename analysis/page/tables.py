"""Tables for other programs: CSV that no spreadsheet takes for formulas, and Parquet."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.compare.verdicts import Verdicts
from analysis.page import tex
from analysis.runs.load import Study
from analysis.runs.rows import SHOWN_COSTS
from analysis.text.flips import Flips
from experiments.files import replacing

RESULTS = (
    "dataset", "model", "metric", "split", "variant", "series", "targets", "r", "alpha", "lr", "scale",
    "n", "seeds", "mean", "sd", "low", "high", "validation", "loss", *SHOWN_COSTS,
    "step_ms_low", "step_ms_high", "disturbed", "diverged", "failed", "tuning", "final", "rates", "cell_key",
    "stack",
)  # fmt: skip
RUNS = (
    "run_id", "status", "phase", "variant", "r", "alpha", "targets", "model", "dataset", "lr", "seed",
    "metric", "split", "score", "validation", "loss", *SHOWN_COSTS, "device", "cell_key", "stack",
)  # fmt: skip
VERDICTS = (
    "dataset", "model", "metric", "targets", "alpha", "r", "cell_key", "variant", "baseline", "n_seeds",
    "difference", "ci_low", "ci_high", "p", "p_adjusted", "margin", "smallest_detectable", "verdict",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def tables(study: Study, cells: pd.DataFrame, found: Verdicts, folder: Path) -> None:
    """Write the tables of comparisons (verdicts.*), cells (results.*) and runs (runs.csv)."""
    write(folder / "verdicts.csv", csv_text(found.table[list(VERDICTS)]))
    write(folder / "verdicts.tex", tex.verdicts(found))
    write(folder / "results.tex", tex.results(study, cells))
    results = cells[list(RESULTS)].assign(seeds=[" ".join(map(str, seeds)) for seeds in cells["seeds"]])
    write(folder / "results.csv", csv_text(results))
    write(folder / "runs.csv", csv_text(study.runs[list(RUNS)]))
    table = pa.Table.from_pandas(results.infer_objects(), preserve_index=False).replace_schema_metadata(None)
    with replacing(folder / "results.parquet") as temporary:
        pq.write_table(table, temporary)


def flips(found: Flips | None, folder: Path) -> None:
    """Write flips.csv, or remove that of an earlier report where nothing flips."""
    path = folder / "flips.csv"
    if found is None or not found.found:
        path.unlink(missing_ok=True)
        return
    rows = [
        {"id": f.id, "label": f.label, found.variant: f.variant, found.baseline: f.baseline}
        | {f"{found.variant} said": f.said, f"{found.baseline} said": f.said_baseline, "text": f.text}
        for f in found.found
    ]
    write(path, csv_text(pd.DataFrame(rows)))


def write(path: Path, text: str) -> None:
    """Write a file of the report whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV: numbers at full precision, unknown values empty, text never read as a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.itertuples(index=False):
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return "'" + value if value.lstrip(" ").startswith(_FORMULA) else value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    return value
