"""What commands asked of a study, with all it takes to begin it later: `.planned/` in its folder.

<digest>.json          per run_id the few values that a report shows of what is missing (`record.planned`)
<digest>.specs.jsonl   the specs: the first in full, then a line per run with what differs from that
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from experiments import record
from experiments.files import replacing
from experiments.spec import RunSpec, from_record
from experiments.sweep.plan import Cells

_SPECS = ".specs.jsonl"


def note(study: Path, cells: Cells) -> None:
    """Leave word of what a command asked for."""
    listed = record.write_planned(study, {run_id: _brief(spec) for spec, run_id in cells})
    path = listed.with_suffix(_SPECS)
    if path.exists():  # the same command again
        return
    first = cells[0][0].as_record()
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(first) + "\n")
        for spec, run_id in cells:
            file.write(json.dumps({"run_id": run_id, "differs": _difference(spec, first)}) + "\n")


def specs(study: Path, run_ids: Collection[str]) -> dict[str, RunSpec]:
    """The specs of those of these runs that some command asked for; a torn file is left out."""
    found: dict[str, RunSpec] = {}
    for path in sorted((study / record.PLANNED).glob(f"*{_SPECS}")):
        try:
            found |= _read(path, run_ids)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _read(path: Path, run_ids: Collection[str]) -> dict[str, RunSpec]:
    with path.open(encoding="utf-8") as file:
        first = json.loads(file.readline())
        rows = [row for row in map(json.loads, file) if row["run_id"] in run_ids]
    specs = {row["run_id"]: {**first, **row["differs"]} for row in rows}
    return {
        run_id: from_record({key: value for key, value in spec.items() if value is not None})
        for run_id, spec in specs.items()
    }


def _difference(spec: RunSpec, first: Mapping[str, Any]) -> dict[str, Any]:
    """The keys whose values differ from the first spec's; None where this spec has none."""
    own = spec.as_record()
    lacking = dict.fromkeys(first.keys() - own.keys())
    return lacking | {key: value for key, value in own.items() if first.get(key) != value}


def _brief(spec: RunSpec) -> dict[str, object]:
    """What tells a person which run it is."""
    return {key: getattr(spec, key) for key in ("variant", "r", "targets", "model", "dataset", "lr", "seed")}
