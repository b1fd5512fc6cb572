"""The small arrays that a run left for the papers' figures, used only when they are what its record says.

`signatures.npz` counts when its checksum is the record's and every array in it is finite. What is in it is
listed where it is written, in experiments/training/diagnostics/__init__.py.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


class Unusable(Exception):
    """Why a file of arrays cannot be used."""


def read(path: Path, expected: str | None) -> Mapping[str, np.ndarray]:
    """The arrays of a file by name; none where there is no file.

    Args:
        path: the file.
        expected: its checksum by the record, where the record has one.

    Raises:
        Unusable: the file is not what the record says, is torn, or holds a number that is not finite.
    """
    try:
        if not path.is_file():
            return {}
        content = path.read_bytes()
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from error
    if expected and hashlib.sha256(content).hexdigest() != expected:
        raise Unusable("differs from its checksum: changed or truncated after the run")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise Unusable("cannot be read") from error
    if any(value.dtype.kind == "f" and not np.isfinite(value).all() for value in found.values()):
        raise Unusable("holds a number that is not finite")
    return found
