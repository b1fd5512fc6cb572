"""State of an unfinished run on disk: whole or absent, and never the only one while the next is written.

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

from experiments.files import replacing

_NAME = re.compile(r"step-(\d+)\.([0-9a-f]{64})\.pt")
KEEP = 2


def save(folder: Path, *, step: int, state: dict) -> Path:
    """Write the state after `step` steps and drop all but the last two."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    target = folder / f"step-{step:08d}.{hashlib.sha256(content).hexdigest()}.pt"
    with replacing(target) as temporary:
        temporary.write_bytes(content)
    for _, old in _found(folder)[:-KEEP]:
        old.unlink(missing_ok=True)
    return target


def load(folder: Path, *, fits: Callable[[dict], bool] = lambda state: True) -> dict | None:
    """The newest state that is whole and fits, or None.

    Others are set aside as `*.torn`: not used, not lost, and not in the way of those still to be written.

    Args:
        folder: The checkpoint folder of a run.
        fits: Whether what else the run left still belongs to a state.
    """
    for _, path in reversed(_found(folder)):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == path.name.split(".")[1]:
            state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
            if fits(state):
                return state
        path.rename(path.with_suffix(".torn"))
    return None


def clear(folder: Path) -> None:
    """Remove the checkpoints of a run that has ended."""
    shutil.rmtree(folder, ignore_errors=True)


def _found(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    matches = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in matches)
