"""The environment of the processes that a command starts: they find these packages first, then the user's."""

import os
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, in which nothing need be installed; with some variables more."""
    path = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), **more}
