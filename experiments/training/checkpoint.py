"""State of an unfinished run on disk: complete or absent, and never the only one while the next is written.

A checkpoint is one file, `step-<n>.<sha256>.pt`: its own checksum is its name, so a torn file is known for
what it is. It is written beside and renamed; the last two are kept.
"""

import hashlib
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from experiments.files import Check, replacing, unchecked
from experiments.training.memory import is_out_of_memory

_NAME = re.compile(r"step-(\d+)\.([0-9a-f]{64})\.pt")
KEEP = 2


class Unusable(Exception):
    """A state that cannot be gone on from; the text says why."""


def save(folder: Path, *, step: int, state: dict, check: Check = unchecked) -> Path:
    """Write the state after `step` steps and drop all but the last two; `check` is as in `replacing`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    target = folder / f"step-{step:08d}.{hashlib.sha256(content).hexdigest()}.pt"
    with replacing(target, check=check) as temporary:
        temporary.write_bytes(content)
    for _, old in _found(folder)[:-KEEP]:
        old.unlink(missing_ok=True)
    return target


def load(folder: Path, apply: Callable[[dict], None]) -> tuple[dict | None, list[str]]:
    """Go on from the newest state that is complete and that `apply` takes.

    Others are set aside as `*.unusable`: not used, not lost, and not in the way of those still to be written.

    Args:
        folder: The checkpoint folder of a run.
        apply: Goes back to a state; whatever it raises speaks against the state, but an exhausted memory.

    Returns:
        That state, None without one, and a sentence for each one that was set aside.
    """
    notes: list[str] = []
    for step, path in reversed(_found(folder)):
        content = path.read_bytes()
        try:
            if hashlib.sha256(content).hexdigest() != path.name.split(".")[1]:
                raise Unusable("it is damaged")
            state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
            apply(state)
            return state, notes
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).split("\n")[0] or type(error).__name__
            path.rename(path.with_suffix(".unusable"))
            notes.append(f"the checkpoint of step {step} was set aside: {reason}")
    return None, notes


def threads(folder: Path) -> int | None:
    """How many threads the newest checkpoint was made with; None if there is none that says so."""
    for _, path in reversed(_found(folder)):
        try:
            state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
            return int(state["threads"])
        except Exception:  # `load` says what is wrong with it
            continue
    return None


def clear(folder: Path) -> None:
    """Remove the checkpoints of a run that has ended."""
    shutil.rmtree(folder, ignore_errors=True)


def _found(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    matches = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in matches)
