"""Studies of runs that were never trained, for measuring what surrounds them."""

import csv
from collections.abc import Sequence
from pathlib import Path

from experiments.conf import Conf
from experiments.record import RunFolder
from experiments.spec import RunSpec
from experiments.sweep.grid import Plain, expand
from experiments.sweep.ranks import dimensions
from experiments.words import parse

CONF = Path(__file__).parents[2] / "conf"
_HISTORY = '{"step": 5, "loss": 1.25, "grad_norm": 0.5, "lr": 0.001}\n'


def specs_of(*words: str) -> list[RunSpec]:
    """The cells of a command, expanded and checked as the command line does it."""
    conf = Conf(CONF)
    parsed = [parse(word, choices=conf.choices) for word in words]
    specs, problems = expand(
        parsed,
        conf,
        choices=conf.defaults(),
        compose=lambda files: Plain(conf.compose(files)),
        dimensions=dimensions,
    )
    if problems:
        raise ValueError("; ".join(problems))
    return specs


def finish(spec: RunSpec, folder: Path, *, adapter_bytes: int = 300_000, rows: int = 60) -> None:
    """Leave what a completed run leaves: all its files in the usual sizes, and a record with checksums."""
    run = RunFolder(folder)
    run.write_spec(spec.as_record())
    run.history.write_text(_HISTORY * rows)
    run.predictions.write_bytes(b"p" * 20_000)
    run.adapter.mkdir(exist_ok=True)
    (run.adapter / "adapter_config.json").write_text("{}")
    (run.adapter / "adapter_model.safetensors").write_bytes(b"a" * adapter_bytes)
    run.write_record(
        {
            "run_id": folder.name,
            "study": spec.study,
            "status": "completed",
            "spec": spec.as_record(),
            "primary": {"metric": "accuracy", "goal": "max"},
            "metrics": {"validation/accuracy": 0.5, "test/accuracy": 0.5},
            "cost": {"train_seconds": 1.0, "step_ms": 10.0},
        }
    )


def write_csv(path: Path | None, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table to a file, if one was asked for."""
    if path is not None:
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
