"""The content of a report as plain data, in the order in which the page and the text show it."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.audit import audit, counted
from analysis.compare import datasets, noise
from analysis.compare.conclusion import on_heads
from analysis.compare.verdicts import Verdicts
from analysis.figures.figure import Figure
from analysis.figures.overview import far_off, metric_title, metric_words, series_in_order, with_bars
from analysis.runs import identity
from analysis.runs.cells import SETTING, order_of
from analysis.runs.load import Study
from analysis.runs.rows import SHOWN_COSTS, Row, each
from analysis.text import answer, tuning
from analysis.text.choice import Choice, choice
from analysis.text.circumstances import environment, error_text, notes, on_step_times, trouble
from analysis.text.flips import Flips, flips
from analysis.text.format import count, metric_name, number
from analysis.text.limits import listed_steps
from analysis.text.next_steps import steps
from analysis.text.ranks import advise

NAMES_SHOWN = 12


def collect(
    study: Study,
    cells: pd.DataFrame,
    found: Verdicts,
    figures: Sequence[Figure],
    *,
    pool: bool = False,
    metric: str | None = None,
    texts: Path | None = None,
) -> dict[str, Any]:
    """Everything that the templates show, in the order of the page."""
    series = series_in_order(cells)
    results = cells[~cells["tuning"]]
    ranks = advise(study, cells, margin=found.margin)
    chosen = choice(study, cells, found, ranks)
    checklist = audit(study, cells, found, files=False)
    timing = on_step_times(study, results)
    if chosen.rows and all(line["step_ms"] is None for line in chosen.rows):
        chosen.note = f"{chosen.note} {timing}".strip()
    return {
        "study": study.name,
        "report": _command(study, found, pool, metric),
        "choice": chosen,
        "flips": _flips(study, cells, found, chosen, texts),
        "ranks": ranks,
        "answer": answer.answer(study, cells, found),
        "facts": facts(study, results, found),
        "series": {name: i for i, name in enumerate(series)},
        "rows": _rows(results),
        "many": {
            key: results[key].nunique() > 1 for key in ("dataset", "model", "targets", "split", "metric")
        },
        "metric": _one(results, metric_title),
        "timing": timing,
        "costs": bool(len(results)) and bool(results[list(SHOWN_COSTS)].notna().any().any()),
        "settings": _by_setting([f for f in figures if f.kind != "paper"]),
        "papers": _by_paper([f for f in figures if f.kind == "paper"]),
        "trouble": trouble(study, cells, found),
        "notes": notes(study),
        "environment": environment(study),
        "runs": runs(study, cells),
        "next_steps": steps(study, cells, found),
        "comparisons": comparisons(found),
        "across": datasets.table(found.overall),
        "tuning": tuning.table(cells, found.budgets),
        "checklist": checklist,
        "counted": counted(checklist),
        "figures": {figure.name: figure.spec for figure in figures},
    }


def _flips(
    study: Study, cells: pd.DataFrame, found: Verdicts, chosen: Choice, texts: Path | None
) -> Flips | None:
    """The examples that flip between the baseline and the leader, or the variant nearest to one."""
    lines = [line for line in chosen.rows if not line["base"] and not line["reference"]]
    line = next((line for line in lines if line["series"] == chosen.leader), lines[0] if lines else None)
    return flips(study, cells, found, line["series"], line["r"], texts) if line else None


def _command(study: Study, found: Verdicts, pool: bool, metric: str | None) -> str:
    """The command that makes this report."""
    words = ["python", "-m", "analysis.report", f"runs/{study.name}"]
    words += ["--baseline", found.baseline] if found.baseline != "lora" else []
    words += ["--margin", f"{found.margin:g}"] if found.margin is not None else []
    words += ["--metric", metric] if metric else []
    return shlex.join([*words, *["--pool"] * pool])


def _one(results: pd.DataFrame, name: Any) -> str:
    names = {name(row) for row in each(results.drop_duplicates(list(SETTING)))}
    return names.pop() if len(names) == 1 else "Primary metric"


def _by_setting(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """The figures of each setting by kind."""
    kinds = ("forest", "rank", "cost", "rates", "reliability", "curves", "coverage")
    return [
        {kind: [f for f in figures if (f.setting, f.kind) == (name, kind)] for kind in kinds} | {"name": name}
        for name in dict.fromkeys(figure.setting for figure in figures)
    ]


def _by_paper(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """The figures of each paper, with the setting of each where there are several."""
    many = len({figure.setting for figure in figures}) > 1
    return [
        {"name": name, "figures": [f for f in figures if f.label == name], "many": many}
        for name in dict.fromkeys(figure.label for figure in figures)
    ]


def facts(study: Study, results: pd.DataFrame, found: Verdicts) -> list[tuple[str, str]]:
    """The study in a few pairs of label and value."""
    runs = study.runs
    of_tuning = runs["phase"] == "tune"
    seeds = sorted(set(runs.loc[~of_tuning, "seed"]))
    tuned = ", ".join(map(str, sorted(set(runs.loc[of_tuning, "seed"]))))
    shown = f"{', '.join(map(str, seeds[:12]))}{', …' if len(seeds) > 12 else ''}"
    ranks = sorted(runs["r"].dropna().unique())
    first = next(iter(study.records.values()), {}).get("data") or {}
    splits = [split for split in ("train", "validation", "test") if f"{split}_rows" in first]
    size = ", ".join(f"{count(first[f'{split}_rows'])} {split}" for split in splits)
    data = " · ".join(sorted(runs["dataset"].unique()))
    asked = len(runs) + len(study.unfinished) + len(study.missing) + len(study.problems)
    pairs = [
        ("Runs", f"{len(study.completed)} completed of {asked}"),
        ("Variants", _names(sorted(runs["variant"].unique(), key=order_of))),
        ("Ranks", " · ".join(f"{r:g}" for r in ranks)),
        ("Targets", " · ".join(sorted(runs["targets"].dropna().unique()))),
        (
            "Seeds",
            f"{len(seeds)} ({shown}){requested(found)}{f'; tuned on {tuned}' * bool(tuned)}"
            if seeds
            else f"tuned on {tuned}" * bool(tuned),
        ),
        ("Model", " · ".join(sorted(runs["model"].unique()))),
        ("Data", f"{data} ({size})" if size and runs["dataset"].nunique() == 1 else data),
        ("Trivial baseline", _blind(study)),
    ]
    floors = list(noise.floors(study, results).values())
    if len(floors) == 1 and floors[0].df >= 2:
        spread = f"{floors[0].sd:.3f} (SD between seeds of one cell, {floors[0].df} degrees of freedom)"
        pairs.append(("Noise floor", "; ".join(filter(None, (spread, floors[0].repeat_text)))))
    return [(label, value) for label, value in pairs if value]


def _blind(study: Study) -> str:
    """What answers that look at no example score, by dataset."""
    firsts = study.completed.drop_duplicates("dataset")
    known = {row["dataset"]: study.predictions.blind(row["run_id"]) for row in each(firsts)}
    texts = {
        name: f"{metric_name(blind.metric)} {number(blind.score)} ({blind.name})"
        for name, blind in known.items()
        if blind
    }
    return "; ".join(f"{name}: {text}" if len(known) > 1 else text for name, text in texts.items())


def requested(found: Verdicts) -> str:
    """Whether the compared seeds were requested at once; empty where that is not known."""
    known = [steps for steps in found.table["steps"] if steps]
    most = max(known, key=len, default=())
    if not most:
        return ""
    return f", requested in steps: {listed_steps(most)}" if len(most) > 1 else ", requested at once"


def _names(names: Sequence[str]) -> str:
    """Names in a row; of many the first."""
    more = len(names) - NAMES_SHOWN
    return " · ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _ranges(results: pd.DataFrame) -> dict[tuple[Any, ...], tuple[float, float]]:
    """The range of each setting's metric, for the small scale in the table."""
    out = {}
    for key, group in results.groupby(list(SETTING), dropna=False):
        values = group[~far_off(with_bars(group))][["mean", "low", "high"]].to_numpy(float)
        if np.isfinite(values).any():
            out[key] = (np.nanmin(values), np.nanmax(values))
    return out


def _rows(results: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of the tables of results and costs."""
    ranges = _ranges(results)
    return [
        _known(row)
        | {
            "strip": _strip(row, *ranges.get(tuple(row[name] for name in SETTING), (np.nan, np.nan))),
            "metric": metric_words(row),
            "interval": "" if np.isnan(row["low"]) else f"{number(row['low'])} to {number(row['high'])}",
        }
        for row in each(results)
    ]


def _known(row: Row) -> dict[str, Any]:
    """A row as templates take it: None for what is unknown, "" for no targets."""
    known = {
        key: None if isinstance(value, float) and np.isnan(value) else value for key, value in row.items()
    }
    return known | {"targets": known["targets"] or ""}


def _strip(row: Row, low: float, high: float) -> dict[str, float] | None:
    """Where the mean and its interval lie between the lowest and the highest of a setting, in percent."""
    place = lambda v: 50.0 if high == low else round(min(100, max(0, 100 * (v - low) / (high - low))), 1)  # noqa: E731
    if not row["n"]:
        return None
    interval = {} if np.isnan(row["low"]) else {"from": place(row["low"]), "to": place(row["high"])}
    return {"at": place(row["mean"]), **interval}


def comparisons(found: Verdicts) -> dict[str, Any]:
    """The table of comparisons, and what a reader of its p values must know."""
    table = found.table
    rows = [
        _known(row)
        | {
            "rank": "" if pd.isna(row["r"]) else row["r"] if row["r"] == "all" else f"{row['r']:g}",
            "unit": answer.unit(row) + (f"; {on_heads(row)}" if row["head_rates"] else ""),
            "mcnemar": ", ".join(f"{p:.2g}" for p in row["mcnemar"]),
        }
        for row in each(table)
    ]
    sizes = {bool(key): int(part["p_adjusted"].notna().sum()) for key, part in table.groupby("overall")}
    many = {key: table[key].nunique() > 1 for key in ("dataset", "model", "targets", "stack")}
    return {
        "rows": rows,
        "many": many,
        "margin": found.margins,
        "baseline": found.baseline,
        "families": sizes,
    }


def runs(study: Study, cells: pd.DataFrame) -> dict[str, Any]:
    """The runs for the page's run browser: what runs of a cell share is kept once, under `cells`.

    The commands of a cell's runs differ in the seed alone; SEED stands for it.
    """
    place = {run_id: i for i, ids in enumerate(cells["run_ids"]) for run_id in ids}
    shared = []
    for row in cells.itertuples():
        record = study.records[row.run_ids[0]]
        spec = record["spec"]
        command = identity.command(record, seed="SEED")
        sweep = identity.command(record, seed=list(row.seeds_tried))
        rest = {key: value for key, value in spec.items() if key != "seed"}
        shared.append({"name": row.series, "spec": rest, "command": command, "sweep": sweep})
    items = []
    for run_id, record in study.records.items():
        item = {
            "id": run_id,
            "cell": place[run_id],
            "seed": record["spec"]["seed"],
            "status": record["status"],
            "metrics": record.get("metrics") or {},
            "cost": record.get("cost") or {},
            "error": error_text(record) if record.get("error") else None,
            "phase": record.get("phase"),
            "notes": [*(record.get("deviations") or []), *(record.get("notes") or [])],
        }
        items.append({key: value for key, value in item.items() if value or value == 0})
    return {"cells": shared, "runs": items}
