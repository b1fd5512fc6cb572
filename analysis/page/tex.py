"""Tables for papers: LaTeX with booktabs rules."""

import pandas as pd

from analysis.compare.verdicts import Verdicts
from analysis.runs.rows import each
from analysis.text.format import count, number, percent


def table(align: str, rows: list[dict[str, object]], comment: str) -> str:
    """A booktabs tabular of equal rows; whatever text is in them, LaTeX prints it as it stands."""
    frame = pd.DataFrame(rows).map(lambda value: " ".join(str(value).split()))
    style = frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    tabular = style.to_latex(hrules=True, column_format=align).replace("\u2013", "--")
    return f"% {' '.join(comment.split())} Needs \\usepackage{{booktabs}}.\n{tabular}"


def results(cells: pd.DataFrame) -> str:
    """The results of the final cells, mean and standard deviation over seeds."""
    rows: list[dict[str, object]] = [
        {
            "Data": c["dataset"],
            "Variant": c["series"],
            "Rank": "" if pd.isna(c["r"]) else f"{c['r']:g}",
            "Targets": c["targets"] or "",
            "Seeds": int(c["n"]),
            "Mean": number(c["mean"]),
            "SD": number(c["sd"]),
            "Parameters": count(c["trainable_parameters"]),
            "Share": percent(c["share"]),
        }
        for c in each(cells[cells["final"].astype(bool) & (cells["n"] > 0)])
    ]
    return table("llrlrrrrr", rows, "Mean and standard deviation over seeds.")


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
    comment = f"Paired differences from {found.baseline}, margin {found.margin:g}."
    return table("llrlrrrrl", rows, comment)
