"""Beside the results: what went wrong, what the runs noted, where the results came from."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.compare.verdicts import Verdicts
from analysis.runs import identity
from analysis.runs.cells import missing_seeds
from analysis.runs.load import Study
from analysis.runs.rows import each

MISSING_SHOWN = 50


def trouble(study: Study, cells: pd.DataFrame, found: Verdicts) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything that is not a completed run, under headings: (heading, [(run or cell, what)])."""
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    names = {
        "diverged": "Diverged: counted as results, with no metric",
        "oom": "Out of memory",
        "failed": "Failed",
        "preempted": "Interrupted before the end",
    }
    for status, heading in names.items():
        ids = study.runs.loc[study.runs["status"] == status, "run_id"]
        groups.append((heading, [(run_id, error_text(study.records[run_id])) for run_id in ids]))
    groups.append(
        ("Begun, without a record", [(name, "still running or killed") for name in study.unfinished])
    )
    groups.append(("Missing: requested, not started", _missing(study)))
    groups.append(
        ("Left out or corrected", [(run, what) for run, what in [*study.problems, *found.problems]])
    )
    lacking = missing_seeds(cells) if len(cells) else []
    groups.append(
        (
            "Seeds that other cells have and these lack",
            [(cell, "seed " + ", ".join(map(str, s))) for cell, s in lacking],
        )
    )
    plain = cells[cells["beside"].astype(bool)] if len(cells) else cells
    groups.append(
        (
            "Plain runs of cells that were tuned and confirmed: shown, not compared",
            [(row["cell_key"], "seed " + ", ".join(map(str, row["seeds_tried"]))) for row in each(plain)],
        )
    )
    earlier = cells[(cells["phase"] == "confirm") & ~cells["final"].astype(bool)]
    groups.append(
        (
            "Confirmed, but later tuning recommends another value: shown, not compared",
            [(row["cell_key"], f"learning rate {row['lr']:g}") for row in each(earlier)],
        )
    )
    lone = dict.fromkeys((left.cell["cell_key"], left.why) for left in found.unmatched)
    groups.append(("Cells that could not be compared", list(lone)))
    return [(heading, entries) for heading, entries in groups if entries]


def on_step_times(study: Study, cells: pd.DataFrame) -> str:
    """What the step times of the final cells are worth; empty where nothing is to be said."""
    final = cells[cells["final"].astype(bool) & (cells["n"] > 0)]
    timed = final[final["step_ms"].notna()]
    unknown, other = int(timed["step_ms_low"].isna().sum()), int(timed["disturbed"].sum())
    apart = f"To measure them in turn: python -m experiments.bench step --study runs/{study.name}"
    if study.in_turn is not None:
        text = f"Step times were measured in turn, {study.in_turn.rounds} rounds on {study.in_turn.machine}; "
        text += "what slowed a whole round is divided out."
        lacking = len(final) - len(timed)
        return text + f" {lacking} cells were not among them and have none." * bool(lacking)
    packed = any("pack" in study.records[run_id] for run_id in study.completed["run_id"])
    if timed.empty and packed:
        return f"Runs trained in packs, whose memory and time per step are not those of one run. {apart}"
    if other:
        return (
            f"Other work ran on the machine during {other} of these {timed['n'].sum()} runs, so that nothing "
            f"is concluded from step times. {apart}"
        )
    why = "The spread of some step times is not known, so that nothing is concluded from them. "
    return f"{why}{apart}" if unknown else ""


def _missing(study: Study) -> list[tuple[str, str]]:
    """The runs that no process came to, the first of them by name."""
    how = "give the command that requested it again"
    rest = len(study.missing) - MISSING_SHOWN
    more = [(f"and {rest} more", how)] if rest > 0 else []
    return [(name, how) for name in study.missing[:MISSING_SHOWN]] + more


def error_text(record: Mapping[str, Any]) -> str:
    error = record.get("error") or {}
    if isinstance(error, str):
        return error
    return ": ".join(str(error[key]) for key in ("kind", "message") if error.get(key)) or "no reason recorded"


def notes(study: Study) -> list[tuple[str, int]]:
    """Deviations and notes of the runs, each once, with the number of runs that carry it."""
    seen: dict[str, int] = {}
    for record in study.records.values():
        for text in dict.fromkeys([*(record.get("deviations") or []), *(record.get("notes") or [])]):
            seen[str(text)] = seen.get(str(text), 0) + 1
    return sorted(seen.items(), key=lambda item: (-item[1], item[0]))


def environment(study: Study) -> list[tuple[str, list[tuple[str, int]]]]:
    """Where results came from: (what, [(value, runs)]), more than one value meaning a mixed study."""
    seen: dict[str, dict[str, int]] = {}
    for record in study.records.values():
        env, data = record.get("env") or {}, record.get("data") or {}
        commit = (
            f"{env['git_sha']}{' with uncommitted changes' if env.get('dirty') else ''}"
            if env.get("git_sha")
            else None
        )
        pairs = {
            "commit": commit,
            "code": env.get("code_sha256"),
            **{key: env.get(key) for key in ("device", "host", "python", "threads")},
        }
        pairs |= dict(env.get("versions") or {})
        name, base = identity.model(record["spec"]), record.get("model") or {}
        pairs |= {f"{name}, weights": base.get("sha256")}
        pairs |= {f"{name}, all files": (record["spec"].get("model_options") or {}).get("content")}
        name = identity.dataset(record["spec"])
        pairs |= {f"{name}, {key[:-7]} data": value for key, value in data.items() if key.endswith("_sha256")}
        for key, value in pairs.items():
            if value is not None:
                counts = seen.setdefault(key, {})
                counts[str(value)] = counts.get(str(value), 0) + 1
    return [
        (key, sorted(counts.items(), key=lambda item: (-item[1], item[0]))) for key, counts in seen.items()
    ]
