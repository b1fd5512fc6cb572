"""Slurm's own programs, called. Only sbatch must be there; what the others do not say is unknown."""

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import UserError

SECONDS = 60  # a controller that is busy answers late
DEFAULT_MAX_ARRAY_SIZE = 1001  # Slurm's own
_ONLY_ONE = re.compile(r"[\d,;.\w-]+")


@dataclass(frozen=True)
class Element:
    """A job in the queue; one of an array if `index` says which."""

    job: str  # the array's number
    index: int | None
    state: str  # PENDING, RUNNING, COMPLETING, ...
    reason: str  # why it is pending

    @property
    def name(self) -> str:
        """As Slurm's commands name it: 12_3."""
        return self.job if self.index is None else f"{self.job}_{self.index}"

    @property
    def waits(self) -> bool:
        """Whether it has not begun, or not again."""
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")


def need() -> None:
    """UserError where nothing can be submitted."""
    if shutil.which("sbatch") is None:
        raise UserError(
            "hydra/launcher=slurm submits with the program sbatch, which this machine does not have: give "
            "the command on a login node of the cluster, or leave hydra/launcher=slurm out to run here."
        )


def sbatch(script: Path) -> str:
    """Submit a script; the job's number.

    UserError with what Slurm said if it refuses.
    """
    done = _run(["sbatch", "--parsable", str(script)])
    if done is None or done.returncode or not _ONLY_ONE.fullmatch(done.stdout.strip()):
        said = "no answer" if done is None else (done.stderr.strip() or done.stdout.strip())
        raise UserError(
            f"Slurm did not take {script}: {said.removeprefix('sbatch: error: ')}. Change what it names "
            f"(hydra.launcher.<key>=..., see conf/hydra/launcher/slurm.yaml) and give the same command again."
        )
    return done.stdout.strip().partition(";")[0]


def queue() -> list[Element] | None:
    """What this user has in the queue, or None where squeue does not say."""
    done = _run(["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%F|%K|%T|%r"])
    if done is None or done.returncode:
        return None
    found = []
    for line in done.stdout.splitlines():
        job, index, state, reason = line.strip().split("|", 3)
        found.append(Element(job, int(index) if index.isdigit() else None, state, reason))
    return found


def max_array_size() -> int:
    """One more than the largest index that an array may have."""
    done = _run(["scontrol", "show", "config"])
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE) if done else None
    return int(found[1]) if found else DEFAULT_MAX_ARRAY_SIZE


def cancel(jobs: Iterable[str], *, waiting: bool = False) -> None:
    """Take jobs out of the queue; UserError if refused.

    Those that run end once they have saved their state, or go on where only what is `waiting` is meant.
    """
    done = _run(["scancel", *(["--state=PENDING"] if waiting else []), *jobs])
    if done is None or done.returncode:
        raise UserError(f"scancel failed: {done.stderr.strip() if done else 'it is not there'}.")


def requeue(name: str) -> bool:
    """Have a running job start again later; whether Slurm will."""
    done = _run(["scontrol", "requeue", name])
    return done is not None and done.returncode == 0


def is_preempted(job: str) -> bool:
    """Whether a job still runs and is to make room for another one.

    If it ends by itself now, Slurm takes it for complete.
    """
    done = _run(["scontrol", "show", "job", job])
    text = done.stdout if done else ""
    return "JobState=RUNNING" in text and re.search(r"PreemptTime=\d", text) is not None


def ended(jobs: Sequence[str]) -> dict[str, str]:
    """How elements ended that are out of the queue, by name, as sacct knows it; empty without sacct."""
    done = _run(["sacct", "-n", "-P", "-X", "-j", ",".join(jobs), "-o", "JobID,State"])
    if done is None or done.returncode:
        return {}
    pairs = (line.split("|", 1) for line in done.stdout.splitlines() if "|" in line)
    return {name: state.split()[0] for name, state in pairs if state}


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """What a program says; None where there is none or it does not answer.

    From inside a job, that job's own variables are not handed on: sbatch and srun take them for options.
    """
    inside = {name for name in os.environ if name.startswith("SLURM_")} - {"SLURM_CONF"}
    environment = {name: value for name, value in os.environ.items() if name not in inside}
    kept: dict[str, Any] = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    try:
        return subprocess.run(command, timeout=SECONDS, env=environment, **kept)
    except (OSError, subprocess.TimeoutExpired):
        return None
