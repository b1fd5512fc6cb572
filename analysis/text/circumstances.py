"""Beside the results: what went wrong, what the runs noted, where the results came from."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.compare.verdicts import Verdicts
from analysis.runs import identity
from analysis.runs.cells import finals, missing_seeds
from analysis.runs.load import Study
from analysis.runs.rows import each

MISSING_SHOWN = 50


def trouble(study: Study, cells: pd.DataFrame, found: Verdicts) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything that is not a completed run, under headings: (heading, [(run or cell, what)])."""
    names = {
        "diverged": "Diverged: counted as results, with no metric",
        "oom": "Out of memory",
        "failed": "Failed",
        "preempted": "Interrupted before the end",
    }
    ids = {status: study.runs.loc[study.runs["status"] == status, "run_id"] for status in names}
    seeds = lambda numbers: f"seed {', '.join(map(str, numbers))}"  # noqa: E731
    earlier = cells[(cells["phase"] == "confirm") & ~cells["final"]]
    groups: list[tuple[str, list[tuple[str, str]]]] = [
        *(
            (name, [(run, error_text(study.records[run])) for run in ids[status]])
            for status, name in names.items()
        ),
        ("Begun, without a record", [(name, "still running or killed") for name in study.unfinished]),
        ("Missing: requested, not started", _missing(study)),
        ("Left out or corrected", [*study.problems, *found.problems]),
        (
            "Seeds that other cells have and these lack",
            [(cell, seeds(lacking)) for cell, lacking in missing_seeds(cells)],
        ),
        (
            "Plain runs of cells that were tuned and confirmed: shown, not compared",
            [(row["cell_key"], seeds(row["seeds_tried"])) for row in each(cells[cells["beside"]])],
        ),
        (
            "Confirmed, but later tuning recommends another value: shown, not compared",
            [(row["cell_key"], f"learning rate {row['lr']:g}") for row in each(earlier)],
        ),
        (
            "Cells that could not be compared",
            list(dict.fromkeys((left.cell["cell_key"], left.why) for left in found.unmatched)),
        ),
    ]
    return [(heading, entries) for heading, entries in groups if entries]


def on_step_times(study: Study, cells: pd.DataFrame) -> str:
    """What the step times of the final cells are worth; empty where nothing is to be said."""
    final = finals(cells)
    timed = final[final["step_ms"].notna()]
    other = int(timed["disturbed"].sum())
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
    return f"{why}{apart}" if timed["step_ms_low"].isna().any() else ""


def _missing(study: Study) -> list[tuple[str, str]]:
    """The runs that no process came to, the first of them by name."""
    rest = len(study.missing) - MISSING_SHOWN
    names = [*study.missing[:MISSING_SHOWN], *([f"and {rest} more"] if rest > 0 else [])]
    return [(name, "give the command that requested it again") for name in names]


def error_text(record: Mapping[str, Any]) -> str:
    """Why a run ended without a result."""
    error = record.get("error") or {}
    if isinstance(error, str):
        return error
    return ": ".join(str(error[key]) for key in ("kind", "message") if error.get(key)) or "no reason recorded"


def notes(study: Study) -> list[tuple[str, int]]:
    """Deviations and notes of the runs, each once, with the number of runs that carry it."""
    seen = Counter[str]()
    for record in study.records.values():
        seen.update({str(text) for text in (*(record.get("deviations") or []), *(record.get("notes") or []))})
    return _most_first(seen)


def environment(study: Study) -> list[tuple[str, list[tuple[str, int]]]]:
    """Where results came from: (what, [(value, runs)]), more than one value meaning a mixed study."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for record in study.records.values():
        spec, env, data = record["spec"], record.get("env") or {}, record.get("data") or {}
        dirty = " with uncommitted changes" if env.get("dirty") else ""
        pairs = {"commit": f"{env['git_sha']}{dirty}" if env.get("git_sha") else None}
        pairs |= {"code": env.get("code_sha256")}
        pairs |= {key: env.get(key) for key in ("device", "host", "python", "threads")}
        pairs |= dict(env.get("versions") or {})
        name = identity.model(spec)
        pairs |= {f"{name}, weights": (record.get("model") or {}).get("sha256")}
        pairs |= {f"{name}, all files": (spec.get("model_options") or {}).get("content")}
        name = identity.dataset(spec)
        pairs |= {f"{name}, {key[:-7]} data": value for key, value in data.items() if key.endswith("_sha256")}
        for key, value in pairs.items():
            if value is not None:
                seen[key][str(value)] += 1
    return [(key, _most_first(counts)) for key, counts in seen.items()]


def _most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
