"""Writing files so that nobody reads half of one, and saying what to do when the disk refuses.

Standard library only.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.errors import UserError

_CAUSES = {
    errno.ENOSPC: "the disk is full. Free some space",
    errno.EDQUOT: "your disk quota is used up. Free some space",
    errno.EFBIG: "the file is larger than this system allows. Raise the limit (ulimit -f)",
    errno.EACCES: "you have no permission to write there. Change the permissions",
    errno.EPERM: "you have no permission to write there. Change the permissions",
    errno.EROFS: "the file system is read-only. Mount it writable",
    errno.ENOTDIR: "there is a file where a folder is needed. Move it away",
    errno.EEXIST: "there is a file where a folder is needed. Move it away",
}


@contextlib.contextmanager
def explained(path: Path, *, rest: str = "Finished runs are kept; it goes on from them.") -> Iterator[None]:
    """Turn a system error from writing `path` into a UserError that names the cause and the remedy.

    Args:
        path: What is written.
        rest: What becomes of all else.
    """
    try:
        yield
    except Exception as error:
        number = _errno(error)
        if number is None:
            raise
        cause = _CAUSES.get(number, f"{getattr(error, 'strerror', None) or error}. Find out why")
        raise UserError(f"cannot write {path}: {cause}, then give the same command again. {rest}") from error


def _errno(error: Exception) -> int | None:
    """The number of a system error; safetensors puts it into the text of an error of its own."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def check_writable(folder: Path, *, needed_bytes: int = 50_000_000) -> None:
    """Create `folder` and show that it takes files and has room; else a UserError before any run starts."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
        probe.write_bytes(b"x")
        probe.unlink()
        if shutil.disk_usage(folder).free < needed_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


_DEPTH = 64  # of nested JSON that is read: ours has six levels


class Taken(Exception):
    """There is such a file already, and it was to be the first."""


Check = Callable[[], object]  # what it raises keeps something from being written


def unchecked() -> None:
    """Nothing to check."""


@contextlib.contextmanager
def replacing(path: Path, *, first: bool = False, check: Check = unchecked) -> Iterator[Path]:
    """Give a temporary path to write; on success it replaces `path` in one step, on failure it vanishes.

    Its mode follows the umask, whatever wrote it.

    Args:
        path: What is written.
        first: Replace nothing: Taken if there is such a file, however late it came.
        check: Called first, before the finished file takes its place, and when anything failed; what it
            raises ends the writing and leaves no trace.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    check()
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            temporary.chmod(mode)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            check()
            if first:
                _link(temporary, path)
            else:
                os.replace(temporary, path)
            _sync_folder(path.parent)
    except Exception:
        check()  # whoever has taken over may have removed the temporary file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise Taken(path) from None


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed `replacing` or `replacing_folder` left. For the one process that writes there."""
    for pattern in (".*.tmp", ".*.old"):
        for path in [*folder.rglob(pattern)]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path, *, check: Check = unchecked) -> Iterator[Path]:
    """Give a temporary folder beside `path` to fill; it takes the place of `path` at the end, or vanishes.

    The modes of its files follow the umask; `check` is as in `replacing`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    old = temporary.with_suffix(".old")
    check()
    try:
        with explained(path, rest="Nothing is left half-written"):
            temporary.mkdir(parents=True)
            mode = temporary.stat().st_mode & 0o666
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    file.chmod(mode)
                    with open(file, "rb+") as stream:
                        os.fsync(stream.fileno())
            check()
            if path.exists():
                os.replace(path, old)
            os.replace(temporary, path)
            _sync_folder(path.parent)
    except Exception:
        check()
        raise
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; file systems without such a call are let be."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def parse_json(text: str | bytes, **options: Any) -> Any:
    """What json.loads gives; ValueError for all that cannot be used, also what is nested too deeply."""
    try:
        value = json.loads(text, **options)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    raise ValueError("nested too deeply")


def read_json(path: Path, **options: Any) -> Any:
    """The content of a JSON file; OSError or ValueError where it cannot be used."""
    return parse_json(path.read_bytes(), **options)


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, with one spelling for what is equal: 16 and 16.0, None and absent."""
    text = json.dumps(_canonical(content), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {key: _canonical(v) for key, v in value.items() if v is not None}
    return [_canonical(v) for v in value] if isinstance(value, (list, tuple)) else value


def is_name(text: Any) -> bool:
    """Whether a text from a file may name a run or a study: one folder, visible, without odd characters."""
    return isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", text) is not None


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: Any, where: str) -> Any:
    """`value` as JSON types: None in a mapping means absent, a non-finite number is refused by its place."""
    if isinstance(value, Mapping):
        return {str(k): plain(v, f"{where}.{k}") for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: leave the key out, a record holds finite numbers only")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if callable(getattr(value, "item", None)):  # a numpy or torch scalar
        return plain(value.item(), where)
    raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold")


def write_json(
    path: Path,
    value: Mapping[str, Any],
    *,
    indent: int | None = 1,
    first: bool = False,
    check: Check = unchecked,
) -> None:
    """Write a mapping as JSON in one piece; NaN is refused. `first` and `check` are as in `replacing`."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, indent=indent)
    with replacing(path, first=first, check=check) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
