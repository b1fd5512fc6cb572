"""Tables for papers: LaTeX with booktabs rules."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis import stats
from analysis.compare.pairs import difference
from analysis.compare.verdicts import Verdicts
from analysis.runs.cells import SETTING, finals
from analysis.runs.load import Study
from analysis.runs.rows import each
from analysis.text.format import metric_name, number


def table(align: str, rows: Sequence[Mapping[str, object]], comment: str, *, raw: Sequence[str] = ()) -> str:
    """A booktabs tabular of equal rows, which prints text as it stands but in the columns that are `raw`."""
    frame = pd.DataFrame(rows).map(lambda value: " ".join(str(value).split()))
    style = frame.style.hide(axis="index").format_index(escape="latex", axis="columns")
    style = style.format(escape="latex", subset=[name for name in frame if name not in raw])
    tabular = style.to_latex(hrules=True, column_format=align).replace("\u2013", "--")
    return f"% {' '.join(comment.split())} Needs \\usepackage{{booktabs}}.\n{tabular}"


def results(study: Study, cells: pd.DataFrame) -> str:
    """Variants by datasets: mean and 95% interval over seeds, the best of each dataset in bold.

    Bold too is what is not significantly worse than the best (paired over seeds and examples, Holm over the
    dataset's cells); where a cell cannot be paired with the best by three seeds, it stays as it is.
    """
    final = finals(cells)
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    heads: list[str] = []
    for setting, group in final.groupby([*SETTING, "stack"], sort=True, dropna=False):
        names = dict(zip((*SETTING, "stack"), setting, strict=True))
        head = f"{names['dataset']} ({metric_name(names['metric'])})".replace("_", " ")
        for key in ("model", "split"):
            head += f", {names[key]}" if final[key].nunique() > 1 else ""
        stacks = final[(final[list(SETTING)] == [names[key] for key in SETTING]).all(axis=1)]["stack"]
        head += f", {names['stack']}" if stacks.nunique() > 1 else ""
        heads.append(head)
        group = group.reset_index(drop=True)
        bold = _level_with_best(study, group)
        for cell, strong in zip(each(group), bold, strict=True):
            rank = "" if pd.isna(cell["r"]) else f"{cell['r']:g}"
            value = number(cell["mean"])
            value = f"\\textbf{{{value}}}" if strong else value
            if not np.isnan(cell["low"]):
                value += f" [{number(cell['low'])}, {number(cell['high'])}]"
            targets = cell["targets"] if isinstance(cell["targets"], str) else ""
            rows.setdefault((str(cell["series"]), rank, targets), {})[head] = value
    many = {targets for _, _, targets in rows if targets}
    frame = [
        {"Variant": series, "Rank": rank}
        | ({"Targets": targets} if len(many) > 1 else {})
        | {head: values.get(head, "") for head in heads}
        for (series, rank, targets), values in rows.items()
    ]
    comment = "Mean and 95% interval over seeds. Bold: the best and what is not significantly worse."
    return table("lr" + "l" * (len(many) > 1) + "r" * len(heads), frame, comment, raw=heads)


def _level_with_best(study: Study, cells: pd.DataFrame) -> list[bool]:
    """Which of these cells are the best or not significantly worse; none without three seeds of the best.

    Methods without a rank, as full fine-tuning, are references beside others: they are not in the running.
    """
    rows = each(cells)
    running = cells["r"].notna() if cells["r"].notna().any() else cells["n"] > 0
    best = int((cells["sign"] * cells["mean"]).where(running, -np.inf).argmax())
    if rows[best]["n"] < stats.FEWEST_SEEDS or len(rows) < 2:
        return [False] * len(rows)
    p = np.full(len(rows), np.nan)
    for i in np.flatnonzero(running):
        found = difference(rows[i], rows[best], study) if i != best else None
        p[i] = found.p if found else np.nan
    known = ~np.isnan(p)
    if not known.any():  # as in results of others without scores by example: bold would claim too much
        return [False] * len(rows)
    p[known] = stats.holm(p[known])
    return [bool(i == best or p[i] >= stats.ALPHA) for i in range(len(rows))]


def verdicts(found: Verdicts) -> str:
    """The comparisons with the baseline."""
    rows: list[dict[str, object]] = [
        {
            "Data": c["dataset"],
            "Variant": c["variant"],
            "Rank": c["r"] if c["r"] == "all" else "" if pd.isna(c["r"]) else f"{c['r']:g}",
            "Targets": c["targets"] or "",
            "Seeds": c["n_seeds"],
            "Difference": "" if pd.isna(c["difference"]) else f"{c['difference']:+.3f}",
            "95% interval": "" if pd.isna(c["ci_low"]) else f"[{c['ci_low']:+.3f}, {c['ci_high']:+.3f}]",
            "p (Holm)": "<0.001" if c["p_adjusted"] < 0.001 else number(c["p_adjusted"]),
            "Verdict": c["said"],
        }
        for c in each(found.table)
    ]
    comment = f"Paired differences from {found.baseline}, margin {found.margins}."
    return table("llrlrrrrl", rows, comment)
