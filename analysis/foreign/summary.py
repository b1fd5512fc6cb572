"""What results of others let one conclude: the lines above the checklist."""

from collections.abc import Sequence

import pandas as pd

from analysis.compare.verdicts import Verdicts
from analysis.foreign import rules
from analysis.runs.load import Study
from analysis.runs.rows import each
from analysis.text import answer


def conclusions(study: Study, cells: pd.DataFrame, found: Verdicts, notes: Sequence[str] = ()) -> list[str]:
    """What results of others let one conclude, as lines: what holds, what cannot be told, what is not known.

    Args:
        study: the records made of them.
        cells: its cells.
        found: the verdicts on it.
        notes: what was assumed when they were read.
    """
    done, rows = study.completed, found.overall
    tasks = ", ".join(sorted(done["dataset"].unique()))
    lines = [
        f"{len(study.runs)} runs of {done['variant'].nunique()} methods on {tasks}, compared with "
        f"{found.baseline}",
        *notes,
    ]
    held = rows[rows["conclusion"].isin(["better", "worse", "equivalent"])]
    lines += ["", f"What holds ({len(held)} of {len(rows)})"]
    lines += [f"  {answer.sentence(row, rows)}" for row in each(held)] or ["  nothing"]
    rest = rows.drop(held.index)
    lines += ["", f"What cannot be concluded ({len(rest)} of {len(rows)})"]
    single = rest[rest["conclusion"] == ""]
    lines += [f"  {answer.sentence(row, rows)}" for row in each(rest.drop(single.index))]
    lines += [f"  {line}" for line in rules.too_few(cells, single, found)]
    lines += ["", "Not known", *(f"  {line}" for line in rules.unknown(study, found))]
    return lines
