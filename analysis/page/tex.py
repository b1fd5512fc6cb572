"""Tables for papers: LaTeX with booktabs rules."""

from collections.abc import Iterable, Sequence

import pandas as pd

from analysis.compare.verdicts import Verdicts
from analysis.runs.rows import each
from analysis.text.format import count, number, percent

_ESCAPES = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "\u2013": "--"}
)


def escaped(value: object) -> str:
    """Text that LaTeX prints as it stands."""
    return " ".join(str(value).split()).translate(_ESCAPES)


def table(align: str, head: Sequence[str], rows: Iterable[Sequence[object]], comment: str) -> str:
    """A booktabs tabular."""
    line = lambda cells: " & ".join(map(escaped, cells)) + r" \\"  # noqa: E731
    body = [
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        line(head),
        r"\midrule",
        *map(line, rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join([f"% {comment} Needs \\usepackage{{booktabs}}.", *body]) + "\n"


def results(cells: pd.DataFrame) -> str:
    """The results of the final cells, mean and standard deviation over seeds."""
    final = cells[cells["final"].astype(bool) & (cells["n"] > 0)]
    rows = [
        (
            c["dataset"],
            c["series"],
            "" if pd.isna(c["r"]) else f"{c['r']:g}",
            c["targets"] if isinstance(c["targets"], str) else "",
            int(c["n"]),
            number(c["mean"]),
            number(c["sd"]),
            count(c["trainable_parameters"]),
            percent(c["share"]),
        )
        for c in each(final)
    ]
    head = ("Data", "Variant", "Rank", "Targets", "Seeds", "Mean", "SD", "Trained", "Share")
    return table("llrlrrrrr", head, rows, "Mean and standard deviation over seeds.")


def verdicts(found: Verdicts) -> str:
    """The comparisons with the baseline."""
    rows = [
        (
            c["dataset"],
            c["variant"],
            "" if c["r"] is None or c["r"] != c["r"] else c["r"] if c["r"] == "all" else f"{c['r']:g}",
            c["targets"] or "",
            c["n_seeds"],
            _signed(c["difference"]),
            "" if pd.isna(c["ci_low"]) else f"[{c['ci_low']:+.3f}, {c['ci_high']:+.3f}]",
            number(c["p_adjusted"]) if not c["p_adjusted"] < 0.001 else "<0.001",
            c["said"],
        )
        for c in each(found.table)
    ]
    head = (
        "Data",
        "Variant",
        "Rank",
        "Targets",
        "Seeds",
        "Difference",
        "95% interval",
        "p (Holm)",
        "Verdict",
    )
    what = f"Paired differences from {found.baseline}, margin {found.margin:g}."
    return table("llrlrrrrl", head, rows, escaped(what))


def _signed(value: float) -> str:
    return "" if pd.isna(value) else f"{value:+.3f}"
