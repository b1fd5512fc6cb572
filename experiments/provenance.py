"""Where a result came from: code, packages and machine. Cheap, and never a reason for a run to fail.

git_sha, dirty   the commit, and whether the tree differs from it; absent outside a git clone
code_sha256      the python sources of variants/ and of what experiments/ needs for a run: what plans runs or
                 works on finished ones (_APART) can change no result and does not count, nor does the README
versions         the packages that a number can depend on
python, host     where it ran
slurm            the job, and how often Slurm has started it again, where there is one
device           the GPU's name if the run used one, else the processor's
threads          how many threads torch computes with
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STAMP = "provenance.json"  # in a copy of the code: where it was copied from, as `source` said there
_SOURCES = ("variants", "experiments")
_APART = ("bench", "sweep", "export", "predict", "artifacts", "tracking", "console")  # of experiments/
_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "bitsandbytes",
    "datasets",
    "evaluate",
    "numpy",
    "scipy",
    "hydra-core",
    "wandb",
)


def collect() -> dict[str, Any]:
    """The record's "env". What cannot be found out is absent."""
    found: dict[str, Any] = {"device": _device(), "threads": _threads(), "slurm": _slurm()}
    return {**_static(), **{key: value for key, value in found.items() if value is not None}}


@functools.cache
def _static() -> dict[str, Any]:
    """What does not change while a process lives."""
    found = {
        **source(),
        "versions": _versions(),
        "python": platform.python_version(),
        "host": platform.node(),
    }
    return {key: value for key, value in found.items() if value not in (None, "")}


@functools.cache
def source() -> dict[str, Any]:
    """The commit, whether the tree differs from it, the sources' hash; of a copy, those of its original.

    Of the files at the first call: a worker calls it before it imports what it runs.
    """
    stamp = ROOT / STAMP
    if stamp.is_file():
        return dict(json.loads(stamp.read_text(encoding="utf-8")))
    return {**_git(), "code_sha256": code_sha256(ROOT)}


def code_sha256(root: Path) -> str | None:
    """One hash over the python sources by path and content, or None where they cannot be read."""
    digest = hashlib.sha256()
    try:
        found = (path for folder in _SOURCES for path in (root / folder).rglob("*.py"))
        apart = {root / "experiments" / name for name in _APART}
        paths = {p.relative_to(root).as_posix(): p for p in found if not apart & {p, *p.parents}}
        own = (folder for folder in os.environ.get("ABLORA_VARIANTS", "").split(os.pathsep) if folder)
        paths |= {f"own/{path.name}": path for folder in own for path in Path(folder).glob("*.py")}
        for name, path in sorted(paths.items(), key=lambda item: Path(item[0])):
            data = path.read_bytes()
            digest.update(f"{name}\0{len(data)}\0".encode())
            digest.update(data)
    except OSError:
        return None
    return digest.hexdigest()


def _git() -> dict[str, Any]:
    """The commit and whether anything differs from it, untracked files included."""
    if not (ROOT / ".git").exists():  # installed elsewhere: another project's repository must not answer
        return {}
    try:
        command = ["git", "--no-optional-locks", "-C", str(ROOT), "status", "--porcelain=v2", "--branch"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = done.stdout.splitlines()
    shas = [line.split()[-1] for line in lines if line.startswith("# branch.oid ")]
    found: dict[str, Any] = {"dirty": any(not line.startswith("#") for line in lines)}
    if shas and shas[0] != "(initial)":
        found["git_sha"] = shas[0]
    return found


def _slurm() -> dict[str, Any] | None:
    """The job that this process is of, as Slurm's own commands name it."""
    job, index = (os.environ.get(name) for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"))
    name = f"{job}_{index}" if job else os.environ.get("SLURM_JOB_ID")
    return {"job": name, "restarts": int(os.environ.get("SLURM_RESTART_COUNT") or 0)} if name else None


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(Exception):  # a broken installation is not this function's to report
            found[name] = importlib.metadata.version(name)
    return found


def _device() -> str | None:
    """The GPU that torch holds in this process, else the processor. Does not import torch."""
    torch = sys.modules.get("torch")
    with contextlib.suppress(Exception):
        if torch is not None and torch.cuda.is_initialized():
            return str(torch.cuda.get_device_name())
    return _processor()


@functools.cache
def _processor() -> str | None:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or None


def _threads() -> int | None:
    torch = sys.modules.get("torch")
    with contextlib.suppress(Exception):
        if torch is not None:
            return int(torch.get_num_threads())
        return int(os.environ["OMP_NUM_THREADS"])
    return os.cpu_count()
