"""train.precision=auto: the arithmetic in which a step takes less time here, one for all runs of a study.

It is settled when a command is read, and from then on no different from a value that was typed: runs, names
and records have it. A study that has runs keeps theirs; else a step of the command's first run is timed both
ways, once for a machine and a shape (the cache keeps it).
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.errors import UserError
from experiments.files import read_json
from experiments.spec import RunSpec
from experiments.sweep.resources import Measured, environment, resources

AUTO, PRECISIONS = "auto", ("fp32", "bf16")
NOTICEABLE = 0.05  # of a step: what bf16, which rounds more, has to save


def settle(runs: Sequence[RunSpec], root: Path) -> tuple[str, str]:
    """The precision of a command's runs, and a sentence that says why.

    Args:
        runs: What the command requests, of one study; those with another precision than auto are as they are.
        root: The folder of all studies.

    Raises:
        UserError: The study has runs in both, or no step could be timed.
    """
    open_ = [run for run in runs if run.train.precision == AUTO]
    study = root / open_[0].study
    there = sorted(_of(study))
    if len(there) > 1:
        raise UserError(
            f"train.precision=auto gives all runs of a study one precision, and study={study.name} has runs "
            f"in {' and '.join(there)}: give train.precision={there[0]} or {there[1]}, or another study."
        )
    if there:
        return there[0], f"train.precision=auto is {there[0]}: the study has runs in it."
    seconds = _seconds(open_[0], len(runs))
    ratio = seconds["bf16"] / seconds["fp32"]
    chosen = "bf16" if ratio < 1 - NOTICEABLE else "fp32"
    return chosen, (
        f"train.precision=auto is {chosen}: a step of {open_[0].cell()} in bf16 takes {ratio:.2f} of one in "
        "fp32 on this machine."
    )


def _of(study: Path) -> set[str]:
    """The precisions of the runs that a study has."""
    found = set()
    for path in study.glob("*/spec.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found.add(str(read_json(path)["train"]["precision"]))
    return found


def _seconds(spec: RunSpec, runs: int) -> dict[str, float]:
    """Seconds of a step by precision, from the cache or by a process that times them."""
    threads = resources("auto", runs)[1]
    shape = (*spec.model_key(), spec.data_key(), spec.train.batch_size, spec.train.micro_batch_size)
    measured = Measured("precision.json", str)
    seconds = measured.of((threads, shape))
    if set(seconds) != set(PRECISIONS):
        done = subprocess.run(
            [sys.executable, "-m", "experiments.training.pace"],
            input=json.dumps(spec.as_record()),
            env=environment(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads)),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise UserError(f"train.precision=auto: no step could be timed here ({why}). Give fp32 or bf16.")
        seconds = json.loads(done.stdout.splitlines()[-1])
        measured.keep((threads, shape), seconds)
    return seconds
