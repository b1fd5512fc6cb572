"""A copy of the code and the configuration, from which queued jobs run whatever becomes of the tree."""

import json
import shutil
from pathlib import Path

from experiments import provenance
from experiments.files import explained

PARTS = ("run.py", "conf", "variants", "experiments", "analysis", "hydra_plugins", "slurm")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "*.png", ".*")


def take(target: Path) -> None:
    """Copy the running code to a new folder, with a note of where it came from (`provenance.source`).

    A job that submits the next ones runs from such a copy itself: the note is then handed on.
    """
    with explained(target):
        target.mkdir()
        (target / provenance.STAMP).write_text(json.dumps(provenance.source(), indent=1), encoding="utf-8")
        for name in PARTS:
            original = provenance.ROOT / name
            if original.is_dir():
                shutil.copytree(original, target / name, ignore=_LEFT_OUT)
            elif original.exists():  # an installation has no run.py
                shutil.copy2(original, target / name)
