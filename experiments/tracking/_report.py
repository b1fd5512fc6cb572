"""The report of a study as a W&B run: its verdicts as a table, the headline numbers, the figures, the page.

The W&B run's id comes from what the report says, so that the same report is one run however often it is
published, and a report of more runs is another. Figures are shown as pages that hold the PNG, because W&B's
own image type needs Pillow, which nothing else here does; the PNG files themselves go along as files.
"""

import base64
import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.errors import UserError, typed
from experiments.record import records
from experiments.tracking import _log, _session
from experiments.tracking._base import Notify, reason
from experiments.tracking._server import Server, log_in
from experiments.tracking.wandb import project_of

_SETTING = ("dataset", "model", "metric", "targets", "alpha")
_HEADLINE = ("difference", "ci_low", "ci_high", "p_adjusted", "n_seeds", "verdict")


def publish(
    study: Path, *, project: str | None, entity: str | None, mode: str, timeout: float, notify: Notify
) -> None:
    """Log the report of a study, unless W&B has this very report.

    Args:
        study: runs/STUDY, whose report was made by `python -m analysis.report`.
        project: Where to; None for WANDB_PROJECT, else the study.
        entity: Whose project; None for the account's default.
        mode: online or offline.
        timeout: Seconds to wait for the server.
        notify: Takes a line for the person watching.

    Raises:
        UserError: There is no report, no account, or the server does not answer.
    """
    report = study / "report"
    for name in ("report.html", "verdicts.csv"):
        if not (report / name).is_file():
            raise UserError(
                f"{report / name} is missing. Make it with: python -m analysis.report {typed(study)}"
            )
    project = project or project_of({"study": study.name})
    run_id = id_of(study)
    if mode == "online":
        held = Server(timeout).held(entity, project, run_id)
        if held is not None and held.state == "finished":
            notify(f"W&B has this report: {held.url}")
            return
    elif logs := _logs(study, run_id):
        notify(
            f"This report is logged in {logs[-1].parent}. Publish it online, or: wandb sync {logs[-1].parent}"
        )
        return
    run = _begin(study, run_id, project, entity, mode, timeout)
    try:
        run.log(_media(report))
        run.summary.update(headline(report / "verdicts.csv") | _counts(study))
        for path in _files(report):
            run.save(str(path), base_path=str(report), policy="now")
        run.finish(exit_code=0)
    except TimeoutError as error:
        raise UserError(
            f"W&B did not take everything within {timeout:g} s. Give the same command again, "
            f"with a longer --timeout where the network is slow."
        ) from error
    logs = _logs(study, run_id)
    if mode == "online":
        _log.mark(logs)
        notify(f"Published: {run.url}")
    else:
        notify(
            f"Logged offline in {logs[-1].parent}. Publish it online later, or: wandb sync {logs[-1].parent}"
        )


def id_of(study: Path) -> str:
    """The id of a report's run: the study's name and a hash of what the report says."""
    digest = hashlib.sha256()
    for name in ("verdicts.csv", "report.html"):
        digest.update((study / "report" / name).read_bytes())
    return f"report-{re.sub(r'[^a-z0-9_]+', '-', study.name.lower())[:45]}-{digest.hexdigest()[:8]}"


def headline(path: Path) -> dict[str, Any]:
    """The numbers that the report's answer rests on, by name: over all ranks where there are several.

    A name says what differs between the comparisons, e.g. "dora against lora/r=all/difference".
    """
    rows = _rows(path)
    differing = [name for name in _SETTING if len({row[name] for row in rows}) > 1]
    overall = {_compared(row) for row in rows if row["r"] == "all"}
    values: dict[str, Any] = {}
    for row in rows:
        if row["r"] == "all" or _compared(row) not in overall:
            name = "/".join(
                [f"{row['variant']} against {row['baseline']}", *(f"{key}={row[key]}" for key in differing)]
            )
            values |= {f"{name}/r={row['r']}/{key}": _number(row[key]) for key in _HEADLINE if row[key] != ""}
    return values


def _begin(study: Path, run_id: str, project: str, entity: str | None, mode: str, timeout: float) -> Any:
    arguments = {
        "id": run_id,
        "config": {"study": study.name, "report": run_id},
        "group": study.name,
        "job_type": "report",
        "name": f"report of {study.name}",
        "tags": [study.name[:64], "report"],
        "project": project,
        "entity": entity,
        "dir": str(study),
        "resume": "allow",
    }
    if mode == "online":
        log_in()
    try:
        return _session.open_run(arguments, mode=mode, timeout=timeout)
    except Exception as error:  # whatever a client may raise
        raise UserError(f"W&B cannot be used ({reason(error)})") from error


def _media(report: Path) -> dict[str, Any]:
    """What W&B shows in panels: the table, the page, the figures."""
    import wandb

    rows = _rows(report / "verdicts.csv")
    columns = list(rows[0]) if rows else ["variant"]
    data = list(zip(*(_column([row[name] for row in rows]) for name in columns), strict=True))
    figures = {
        f"figures/{path.stem}": wandb.Html(_picture(path), inject=False, data_is_not_path=True)
        for path in sorted(report.glob("figures/*.png"))
    }
    page = wandb.Html((report / "report.html").read_text("utf-8"), inject=False, data_is_not_path=True)
    return {
        "verdicts": wandb.Table(columns=columns, data=[list(row) for row in data]),
        "report": page,
    } | figures


def _picture(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{path.stem}" style="max-width: 100%" src="data:image/png;base64,{content}">'


def _files(report: Path) -> list[Path]:
    """What goes along as files."""
    return [*sorted(report.glob("*.csv")), report / "report.html", *sorted(report.glob("figures/*.png"))]


def _counts(study: Path) -> dict[str, int]:
    """How many runs the study has, by status."""
    counts = Counter(record["status"] for record in records(study))
    return {f"runs/{status}": count for status, count in counts.items()}


def _logs(study: Path, run_id: str) -> list[Path]:
    return [path for path in _log.logs(study) if path.name == f"run-{run_id}.wandb"]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _compared(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in (*_SETTING, "variant", "baseline"))


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _column(texts: Sequence[str]) -> list[float | str | None]:
    """A column of one type, as W&B's tables want it; what is empty is None."""
    values = [_number(text) if text else None for text in texts]
    return [text or None for text in texts] if any(isinstance(v, str) for v in values) else values


def mode_of(offline: bool) -> str:
    """online, unless asked otherwise here or by WANDB_MODE."""
    return "offline" if offline or os.environ.get("WANDB_MODE") == "offline" else "online"
