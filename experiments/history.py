"""The history of a run: JSON lines that survive a kill, and how they are read back. Standard library only."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from experiments.files import Check, explained, parse_json, plain, replacing, unchecked


class History:
    """Rows appended to a JSON-lines file, each handed to the system at once: a kill loses at most one."""

    def __init__(self, path: Path):
        self.path = path
        self._file: BinaryIO | None = None
        self._written: os.stat_result | None = None  # which file the rows went to

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row. Values that are not finite become absent keys, named under "nonfinite"."""
        line = json.dumps(finite(row), allow_nan=False, ensure_ascii=False) + "\n"
        with explained(self.path):
            file = self._open()
            size = os.fstat(file.fileno()).st_size
            try:
                _write_all(file, line.encode())
            except OSError:
                os.ftruncate(file.fileno(), size)  # never half a line
                raise

    def sync(self) -> None:
        """Ask the system to bring everything so far to the disk."""
        if self._file is not None:
            with explained(self.path):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close; a later append opens the file again."""
        try:
            self.sync()
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None

    def mark(self) -> tuple[int, str]:
        """The size of the file in bytes and its hash: what `cut` goes back to. Synced first."""
        self.sync()
        content = self.path.read_bytes() if self.path.exists() else b""
        return len(content), hashlib.sha256(content).hexdigest()

    def holds(self, size: int, digest: str) -> bool:
        """Whether the file still begins with what was marked."""
        content = self.path.read_bytes()[:size] if self.path.exists() else b""
        return len(content) == size and hashlib.sha256(content).hexdigest() == digest

    def is_replaced(self) -> bool:
        """Whether the rows went to a file that is no longer the one at the path: nobody would find them."""
        if self._written is None:
            return False
        try:
            return not os.path.samestat(self._written, os.stat(self.path))
        except FileNotFoundError:
            return True

    def cut(self, size: int, *, check: Check = unchecked) -> None:
        """Drop what follows the first `size` bytes, in one piece, so that a resumed run repeats no row.

        The file is replaced: a process that still has the old one open writes to nothing. `check` is as in
        `files.replacing`.
        """
        self.close()
        self._written = None
        if self.path.exists():
            content = self.path.read_bytes()[:size]
            with replacing(self.path, check=check) as temporary:
                temporary.write_bytes(content)

    def _open(self) -> BinaryIO:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _drop_torn_tail(self.path)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - held until close()
            self._written = os.fstat(self._file.fileno())
        return self._file


def _write_all(file: BinaryIO, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]


def _drop_torn_tail(path: Path) -> None:
    """Cut off what a kill left of a last line, or the next row would be glued to it."""
    if path.exists():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)


def finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without its non-finite values, whose keys are listed instead."""
    kept, nonfinite = {}, []
    for key, value in row.items():
        try:
            kept[key] = plain(value, key)
        except ValueError:
            nonfinite.append(key)
    kept = {key: value for key, value in kept.items() if value is not None}
    return {**kept, "nonfinite": nonfinite} if nonfinite else kept


def read_history(path: Path) -> list[dict[str, Any]]:
    """The rows of a history up to its first broken line, which is normally none or a torn last one.

    None of a file that is not there or cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")
    except OSError:
        return []
    try:
        rows: list[dict[str, Any]] = json.loads(f"[{','.join(lines)}]")  # all at once: many times faster
        if len(rows) == len(lines):
            return rows
    except (ValueError, RecursionError):
        pass  # some line is broken: one by one up to it
    rows = []
    for line in lines:
        try:
            rows.append(parse_json(line))
        except ValueError:
            break
    return rows
