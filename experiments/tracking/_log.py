"""The log that W&B's client keeps on the disk, read without W&B: `wandb/*run-*/run-<id>.wandb`.

The file is a header of 7 bytes, then blocks of 32 KiB with chunks: checksum, length and kind (whole, first,
middle, last part), then a part of a protobuf record. A kill leaves a torn tail, which ends the reading.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.tracking._rows import own

_BLOCK = 32768
_HEADER = struct.Struct("<IHB")  # of a chunk: crc32, length, kind
_FILE_HEADER = 7  # ":W&B", a magic number, a version
_WHOLE, _FIRST, _LAST = 1, 2, 4


def logs(folder: Path) -> list[Path]:
    """The logs of a run, oldest first: one for each time that it was begun or went on."""
    return sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda path: _started(path.parent))


def rows(folder: Path) -> list[dict[str, Any]]:
    """The history rows in all logs of a run folder, in order."""
    return [row for path in logs(folder) for row in rows_in(path)]


def rows_in(path: Path) -> list[dict[str, Any]]:
    """The history rows in one log, without W&B's own columns."""
    found = (entry.history for entry in records(path) if entry.HasField("history"))
    return [own({_key(item): json.loads(item.value_json) for item in history.item}) for history in found]


def records(path: Path) -> Iterator[Any]:
    """The protobuf records of a log up to its end or to where it is torn; UserError if it is no such log."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    if data and not data.startswith(b":W&B"):
        raise UserError(f"{path} is not a log of W&B")
    parts = b""
    for kind, part in _chunks(data):
        parts = part if kind in (_WHOLE, _FIRST) else parts + part
        if kind in (_WHOLE, _LAST):
            yield Record.FromString(parts)


def mark(synced: Iterable[Path]) -> None:
    """Tell W&B's own tools that these logs need no upload: `wandb sync` passes over them."""
    for path in synced:
        path.with_name(f"{path.name}.synced").touch()


def _chunks(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = _FILE_HEADER
    while at + _HEADER.size <= len(data):
        if _BLOCK - at % _BLOCK < _HEADER.size:  # no room for a header: the rest of the block is padding
            at += _BLOCK - at % _BLOCK
            continue
        checksum, size, kind = _HEADER.unpack_from(data, at)
        part = data[at + _HEADER.size : at + _HEADER.size + size]
        if len(part) < size or zlib.crc32(part, zlib.crc32(bytes([kind]))) != checksum:
            return
        yield kind, part
        at += _HEADER.size + size


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def _started(folder: Path) -> tuple[str, int]:
    """Of a folder "offline-run-20261122_100152-<id>": the time in its name, then that of its making."""
    return folder.name.removeprefix("offline-").split("-")[1], folder.stat().st_mtime_ns
