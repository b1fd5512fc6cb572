"""Studies of runs that were never trained, for measuring what surrounds them."""

from pathlib import Path
from typing import Any

from experiments.config.groups import CONF
from experiments.config.reading import read
from experiments.record import RunFolder
from experiments.spec import RunSpec

_HISTORY = '{"step": 5, "loss": 1.25, "grad_norm": 0.5, "lr": 0.001}\n'


def specs_of(*words: str) -> list[RunSpec]:
    """The runs of a command, read as the command line does it."""
    return read(words, CONF).runs


def finish(spec: RunSpec, folder: Path, *, adapter_bytes: int = 300_000, rows: int = 60) -> None:
    """Leave what a completed run leaves: all its files in the usual sizes, and a record with checksums."""
    run = RunFolder(folder)
    run.path.mkdir(parents=True, exist_ok=True)
    run.predictions.write_bytes(b"p" * 20_000)
    run.adapter.mkdir(exist_ok=True)
    (run.adapter / "adapter_config.json").write_text("{}")
    (run.adapter / "adapter_model.safetensors").write_bytes(b"a" * adapter_bytes)
    conclude(
        run,
        spec.as_record(),
        history=_HISTORY * rows,
        metrics={"validation/accuracy": 0.5, "test/accuracy": 0.5},
        cost={"train_seconds": 1.0, "step_ms": 10.0},
    )


def conclude(
    run: RunFolder, spec: dict[str, Any], *, history: str, metrics: dict[str, float], **more: Any
) -> None:
    """Write spec, history and record of a completed run; `more` is what else the record says."""
    run.write_spec(spec)
    run.history.write_text(history)
    run.write_record(
        {
            "run_id": run.path.name,
            "study": spec["study"],
            "status": "completed",
            "spec": spec,
            "primary": {"metric": "accuracy", "goal": "max"},
            "metrics": metrics,
            **more,
        }
    )
