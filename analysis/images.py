"""Figures as files: SVG, PDF and PNG made from the definition that the page shows, with the light theme."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import vl_convert

from analysis import drawing
from analysis.figures.figure import WIDTH, Figure
from analysis.figures.theme import config
from experiments.errors import UserError
from experiments.files import replacing

_GLOBALS = "window.vegaEmbed = vegaEmbed; window.vegaLite = vegaLite; window.vega = vega;"
FORMATS = ("svg", "pdf", "png")
MANY = 24  # figures from which on a second process helps


def bundle() -> str:
    """The script that draws the page's figures, with nothing left to fetch.

    Kept in the cache, as making it takes seconds.
    """
    vegalite = vl_convert.get_vegalite_versions()[-1]
    root = Path(os.environ.get("ABLORA_CACHE") or Path.home() / ".cache" / "ablora")
    cached = root / f"figures-{version('vl-convert-python')}-{vegalite}.js"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text, _, checksum = cached.read_text(encoding="utf-8").rpartition("\n//")
        if hashlib.sha256(text.encode()).hexdigest() == checksum:
            return text
    text = vl_convert.javascript_bundle(_GLOBALS, vl_version=vegalite)
    with contextlib.suppress(UserError, OSError), replacing(cached) as temporary:
        temporary.write_text(f"{text}\n//{hashlib.sha256(text.encode()).hexdigest()}", encoding="utf-8")
    return text


def write(figures: Sequence[Figure], folder: Path, *, longest: int = 8) -> None:
    """Write every figure in every format into `folder`, and remove images of figures that are no more.

    `longest` is the length of the longest name in the legends, which says how many fit beside each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    look = config(columns=max(1, WIDTH // (34 + 7 * longest)))
    jobs = [_job(figure, folder, look) for figure in figures]
    with _helper(jobs[1::2] if len(jobs) >= MANY else []):
        for job in jobs[::2] if len(jobs) >= MANY else jobs:
            drawing.draw(**job)
    wanted = {f"{figure.name}.{kind}" for figure in figures for kind in FORMATS}
    for stale in folder.iterdir():
        if stale.suffix[1:] in FORMATS and stale.name not in wanted:
            stale.unlink()


def _job(figure: Figure, folder: Path, look: dict[str, Any]) -> dict[str, Any]:
    spec = figure.spec | ({"width": WIDTH} if figure.spec.get("width") == "container" else {})
    return {
        "name": str(folder / figure.name),
        "spec": spec | {"padding": 12, "background": "white"},
        "config": look,
    }


@contextlib.contextmanager
def _helper(jobs: list[dict[str, Any]]) -> Iterator[None]:
    """Have `jobs` drawn by a second process meanwhile: half the time of a large report is drawing."""
    if not jobs:
        yield
        return
    with subprocess.Popen([sys.executable, "-P", drawing.__file__], stdin=subprocess.PIPE) as process:
        feeder = threading.Thread(target=process.communicate, args=(json.dumps(jobs).encode(),))
        feeder.start()
        yield
        feeder.join()
    if process.returncode:
        raise UserError(
            f"drawing figures failed in a second process (exit code {process.returncode}); see above"
        )
