"""A cache addressed by content: $ABLORA_CACHE, else ~/.cache/ablora. Losing it costs time, never a result.

An entry is written under a temporary name and then renamed, carries the hash of its own body, and is
rebuilt when it does not match. Where nothing can be written the work goes on without a cache, and
`problem()` says so.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import UserError
from experiments.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

_problems: list[str] = []


def folder() -> Path:
    """Where the cache lies; it need not exist."""
    return Path(os.environ.get("ABLORA_CACHE") or "~/.cache/ablora").expanduser()


def problem() -> str | None:
    """Why the cache could not be written in this process, for the notes of a run; None if all is well."""
    return _problems[-1] if _problems else None


def entry(kind: str, key: str) -> Path:
    """The file of one entry."""
    return folder() / kind / key


def store(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file and move it to `path` in one step; a failure is noted, not raised."""
    try:
        with replacing(path) as temporary:
            write(temporary)
    except (UserError, OSError):
        _problems.append(
            f"the cache {folder()} cannot be written, so data is prepared again each time. "
            "Free some space or set ABLORA_CACHE to a folder that can be written"
        )


def store_json(kind: str, key: str, value: Any, *, head: dict[str, str]) -> None:
    """File a JSON value; `head` is a handful of facts that can be read without it."""
    body = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    first = json.dumps({**head, "body": hashlib.sha256(body.encode()).hexdigest()})
    store(entry(kind, key), lambda path: path.write_text(f"{first}\n{body}\n", encoding="utf-8"))


def recall_head(kind: str, key: str) -> dict[str, str] | None:
    """The facts filed beside a value, without reading the value; None if there is no readable entry."""
    try:
        with open(entry(kind, key), encoding="utf-8") as file:
            head = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    return head if isinstance(head, dict) and "body" in head else None


def recall_json(kind: str, key: str) -> Any | None:
    """A value filed before; None if it is missing or damaged."""
    head = recall_head(kind, key)
    if head is None:
        return None
    try:
        body = entry(kind, key).read_text(encoding="utf-8").split("\n", 1)[1].rstrip("\n")
        return json.loads(body) if hashlib.sha256(body.encode()).hexdigest() == head["body"] else None
    except (OSError, ValueError, IndexError):
        return None


def store_tensors(kind: str, key: str, tensors: "dict[str, Tensor]") -> None:
    """File tensors by name."""
    from safetensors.torch import save

    body = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    store(entry(kind, key), lambda path: path.write_bytes(hashlib.sha256(body).digest() + body))


def recall_tensors(kind: str, key: str) -> "dict[str, Tensor] | None":
    """Tensors filed before; None if they are missing or damaged."""
    from safetensors.torch import load

    try:
        filed = entry(kind, key).read_bytes()
    except OSError:
        return None
    digest, body = filed[:32], filed[32:]
    return load(body) if hashlib.sha256(body).digest() == digest else None
