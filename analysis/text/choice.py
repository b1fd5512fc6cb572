"""For a reader who chooses: one line of recommendation, one small table, and the winners among each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.compare.conclusion import ORDER, listed
from analysis.compare.verdicts import Verdicts
from analysis.foreign.independent import verdicts
from analysis.runs.cells import Key, by_key
from analysis.runs.load import Study
from analysis.runs.rows import Row, each
from analysis.runs.timing import apart
from analysis.text.answer import place
from analysis.text.format import number, signed
from analysis.text.ranks import Advice

SHOWN = 9  # rows of the small table; the rest is folded
CHEAPER = 0.95  # of a cost: what is below it is worth a word
_WORDS = {
    "trainable_parameters": "trainable parameters",
    "step_ms": "time per step",
    "peak_bytes": "peak memory",
}


@dataclass
class Choice:
    """What the first screen shows; `sentence` is empty where the records allow no recommendation."""

    sentence: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    among: list[dict[str, Any]] = field(default_factory=list)
    leader: str = ""
    note: str = ""


def choice(study: Study, cells: pd.DataFrame, found: Verdicts, ranks: Sequence[Advice]) -> Choice:
    """The choice that a study allows.

    Args:
        study: the records.
        cells: its cells.
        found: its verdicts.
        ranks: the advice on ranks, by which each variant's rank is picked.
    """
    rows = found.overall
    if rows.empty:
        return Choice()
    advised = {(a.series, a.dataset, a.model, a.targets): a.sufficient or a.best for a in ranks}
    out = Choice(rows=_rows(rows, by_key(cells), advised))
    choices = _choices(rows)
    winners, over_data = _winners(rows, choices), _winners(found.across, choices)
    out.leader = _leader(over_data if len(over_data) else winners)
    if out.leader and winners["variant"].nunique() > 1:
        other = verdicts(study, cells, baseline=out.leader, margin=found.margin)
        out.among = _among(other, set(winners["variant"]))
    out.sentence = _sentence(rows, over_data, out)
    over = sorted({r for row in each(rows) if row["r"] == "all" for r in row["ranks"]})
    if over:
        out.note = (
            f"Differences are means over ranks {listed([f'{r:g}' for r in over])}; the rank shown, and its "
            "costs, are those of the smallest rank that does as well as the variant's best, or else of the "
            "best on validation."
        )
    return out


def _choices(rows: pd.DataFrame) -> set[str]:
    """The variants to choose from; full fine-tuning and the like are references where others have ranks."""
    ranked = rows[rows["variant_r"].notna()]
    return set((ranked if len(ranked) else rows)["variant"])


def _winners(table: pd.DataFrame, choices: set[str]) -> pd.DataFrame:
    """The comparisons of a table that one of these variants won."""
    return table[(table["conclusion"] == "better") & table["variant"].isin(choices)] if len(table) else table


def _leader(winners: pd.DataFrame) -> str:
    """The variant that won most often, of those the one that won by most; empty if none did."""
    if winners.empty:
        return ""
    by_variant = winners.groupby("variant", sort=True)["difference"]
    order = pd.DataFrame({"n": by_variant.size(), "mean": by_variant.mean()})
    return str(order.sort_values(["n", "mean"], ascending=False, kind="stable").index[0])


def _rows(
    rows: pd.DataFrame, cells: Mapping[Key, Row], advised: Mapping[tuple[Any, ...], float]
) -> list[dict[str, Any]]:
    """The lines of the table, setting by setting, the baseline first."""
    out = []
    for _, group in rows.groupby(["dataset", "model", "targets", "stack"], sort=False, dropna=False):
        ranked = bool(group["variant_r"].notna().any())
        order = [(ranked and pd.isna(row["variant_r"]), *_order(row)) for row in each(group)]
        group = group.assign(order=order).sort_values("order", kind="stable")
        first = each(group)[0]
        plain = _picked([cells[key] for key in first["cells"][1]], advised)
        out.append(_line(first, plain, plain, base=True))
        out += [
            _line(row, _picked([cells[key] for key in row["cells"][0]], advised), plain)
            | {"reference": bool(row["order"][0])}
            for row in each(group)
        ]
    return out


def _order(row: Row) -> tuple[int, float]:
    known = row["conclusion"] if row["conclusion"] in ORDER else ""
    return ORDER.index(known), -row["difference"] if row["difference"] == row["difference"] else 0.0


def _picked(cells: Sequence[Row], advised: Mapping[tuple[Any, ...], float]) -> Row:
    """The cell of a variant that its line stands for: at the advised rank, else the best on validation."""
    first = cells[0]
    rank = advised.get((first["series"], first["dataset"], first["model"], first["targets"]))
    there = [cell for cell in cells if cell["r"] == rank]
    return (
        there[0] if there else max(cells, key=lambda cell: np.nan_to_num(cell["sign"] * cell["validation"]))
    )


def _line(row: Row, cell: Row, plain: Row, *, base: bool = False) -> dict[str, Any]:
    known = lambda value: None if pd.isna(value) else float(value)  # noqa: E731
    ratios = {
        key: None if base or pd.isna(cell[key]) or not plain[key] > 0 else cell[key] / plain[key]
        for key in _WORDS
        if key != "step_ms" or apart(cell, plain)
    }
    ratios.setdefault("step_ms", None)  # times that could be chance make no ratio
    return {
        "series": cell["series"],
        "base": base,
        "reference": False,
        "dataset": row["dataset"],
        "model": row["model"],
        "targets": row["targets"] or "",
        "r": known(cell["r"]),
        "mean": known(cell["mean"]),
        "difference": None if base else known(row["difference"]),
        "low": None if base else known(row["ci_low"]),
        "high": None if base else known(row["ci_high"]),
        "conclusion": "" if base else row["conclusion"],
        "said": "baseline" if base else row["said"],
        "ratios": ratios,
        **{key: known(cell[key]) for key in (*_WORDS, "step_ms_low", "step_ms_high")},
        "disturbed": bool(cell["disturbed"]),
    }


def _among(other: Verdicts, winners: set[str]) -> list[dict[str, Any]]:
    """The other winners against the leader: a line per setting."""
    rows = other.overall[other.overall["variant"].isin(winners)]
    return [
        {
            "variant": row["variant"],
            "leader": row["baseline"],
            "where": place(row, other.overall),
            "difference": row["difference"],
            "low": row["ci_low"],
            "high": row["ci_high"],
            "conclusion": row["conclusion"],
            "said": row["said"],
        }
        for row in each(rows)
    ]


def _sentence(rows: pd.DataFrame, over_data: pd.DataFrame, out: Choice) -> str:
    base = rows["baseline"].iloc[0]
    if out.leader:
        return _take(rows, over_data, out, base)
    if (rows["verdict"] == "").all():
        return ""
    plain = next(line for line in out.rows if line["base"])
    keep = f"Keep {_named(plain)}: no variant is shown to be better"
    cheaper = [c for line in out.rows if line["conclusion"] == "equivalent" and (c := _cheaper(line))]
    if cheaper:
        return f"{keep}, and {cheaper[0]}."
    open_ = rows[rows["conclusion"] == "inconclusive"]
    least = open_["detectable_in_family"].max()
    if (open_["detectable_in_family"] > open_["margin"]).any():
        return f"{keep}, though a difference below {number(least)} could have been missed."
    return f"{keep}."


def _take(rows: pd.DataFrame, over_data: pd.DataFrame, out: Choice, base: str) -> str:
    own = rows[rows["variant"] == out.leader]
    won = int((own["conclusion"] == "better").sum())
    lines = [line for line in out.rows if line["series"] == out.leader]
    if len(over_data):
        mean = each(over_data[over_data["variant"] == out.leader])[0]
        text = f"Take {out.leader}: {signed(mean['difference'])} over {base} "
        text += f"({signed(mean['ci_low'])} to {signed(mean['ci_high'])}), the mean over "
        text += f"{len(mean['datasets'])} datasets; better on {won} of {len(own)} alone"
    elif len(own) > 1:
        text = f"Take {out.leader}: better than {base} in {won} of {len(own)} settings"
    else:
        line = lines[0]
        text = f"Take {_named(line)}: {signed(line['difference'])} over {base} "
        text += f"({signed(line['low'])} to {signed(line['high'])})"
    worse = int((own["conclusion"] == "worse").sum())
    text += f", worse on {worse}" if worse else ""
    costs = [
        f"{ratio:.2f} times the {_WORDS[key]}"
        for key in ("trainable_parameters", "step_ms")
        if (ratio := lines[0]["ratios"][key]) is not None and not CHEAPER < ratio < 1 / CHEAPER
    ]
    known = {key for key, ratio in lines[0]["ratios"].items() if ratio is not None}
    about = ", with about as many trainable parameters" if "trainable_parameters" in known else ""
    about = ", at about its cost" if "step_ms" in known else about
    text += f", at {listed(costs)}" if costs else about
    rivals = {row["variant"] for row in out.among if row["conclusion"] not in ("worse", "behind")}
    if rivals:
        verb = "is" if len(rivals) == 1 else "are"
        text += f"; {listed(sorted(rivals))} {verb} not shown to be behind it"
    return f"{text}."


def _named(line: Mapping[str, Any]) -> str:
    return str(line["series"]) + (f" at rank {line['r']:g}" if line["r"] is not None else "")


def _cheaper(line: Mapping[str, Any]) -> str:
    """In what a variant that does as well is cheaper; empty if in nothing."""
    parts = [
        f"{line['ratios'][key]:.2f} times the {word}"
        for key, word in _WORDS.items()
        if line["ratios"][key] is not None and line["ratios"][key] < CHEAPER
    ]
    return f"{_named(line)}, equivalent, needs {listed(parts)}" if parts else ""
