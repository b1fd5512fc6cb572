"""What a model's files hold, as one hash over every byte of weights, config and tokenizer.

The hash of a file is remembered ($ABLORA_CACHE) by its path, size, times and inode, so that an unchanged file
is read once, however many processes ask. Losing or damaging what is remembered costs time, never a result.
"""

import hashlib
import os
import time
from pathlib import Path

from experiments import cache, files
from experiments.errors import UserError

_READ = {
    ".safetensors", ".bin", ".gguf", ".json", ".jinja", ".txt", ".model", ".vocab", ".bpe", ".codes",
    ".tiktoken",
}  # fmt: skip
_SETTLED = 2.0  # seconds; a file younger than the clock's grain can change again without a trace


def content_of(place: Path) -> str:
    """The identity of a model's folder, or of its one file, wherever it lies: 64 hexadecimal digits.

    Every file that loading may read counts by its name and all of its bytes; UserError if one cannot be read.
    """
    try:
        return _content(place)
    except OSError as error:
        raise UserError(
            f"{error.filename or place} cannot be read ({error.strerror or error}), and a model is known by "
            "all of its files. Change the permissions, or restore the file"
        ) from error


def _content(place: Path) -> str:
    if place.is_file():
        return file_sha256(place)
    paths = sorted(p for p in place.iterdir() if p.suffix in _READ and p.is_file())
    if any(p.suffix == ".safetensors" for p in paths):  # pickled weights beside them are not read
        paths = [p for p in paths if not p.match("pytorch_model*.bin")]
    paths += sorted(place.glob("additional_chat_templates/*.jinja"))
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(place).as_posix()} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, read again only if its size, times or inode are not those of the last time."""
    facts = _facts(path)
    key = hashlib.sha256(os.path.realpath(path).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    known = cache.recall_json("files", key)
    if isinstance(known, dict) and known.get("facts") == facts and isinstance(known.get("sha256"), str):
        return known["sha256"]
    found = files.sha256(path)
    if _facts(path) == facts and time.time() - max(facts[1:3]) / 1e9 > _SETTLED:
        cache.store_json("files", key, {"facts": facts, "sha256": found}, head={})
    return found


def _facts(path: Path) -> list[int]:
    """Size, time of change of the bytes, of anything about the file, inode."""
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
