"""The small arrays that a run left for the papers' figures, read only when they are what its record says.

`signatures.npz` counts when its checksum is the record's and every array in it is finite. What is in it is
listed where it is written, in experiments/signatures/__init__.py.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping

import numpy as np

from analysis.faults import Problem
from analysis.load import Study

NOTHING: Mapping[str, np.ndarray] = {}


class Arrays:
    """Arrays by run, read once; a file that cannot be used is added to the study's problems."""

    def __init__(self, study: Study):
        self._study = study
        self._known: dict[str, Mapping[str, np.ndarray]] = {}

    def of(self, run_id: str) -> Mapping[str, np.ndarray]:
        """The arrays of a run by name; none where it left none that can be used."""
        if run_id not in self._known:
            self._known[run_id] = self._read(run_id)
        return self._known[run_id]

    def _read(self, run_id: str) -> Mapping[str, np.ndarray]:
        path = self._study.path(run_id).signatures
        if not path.is_file():
            return NOTHING
        content = path.read_bytes()
        expected = (self._study.records[run_id].get("files") or {}).get(path.name)
        if expected and hashlib.sha256(content).hexdigest() != expected:
            return self._unusable(run_id, "differs from its checksum: changed or truncated after the run")
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile):
            return self._unusable(run_id, "cannot be read")
        if any(value.dtype.kind == "f" and not np.isfinite(value).all() for value in found.values()):
            return self._unusable(run_id, "holds a number that is not finite")
        return found

    def _unusable(self, run_id: str, why: str) -> Mapping[str, np.ndarray]:
        self._study.problems.append(Problem(run_id, f"signatures.npz {why}; left out of the papers' figures"))
        return NOTHING
