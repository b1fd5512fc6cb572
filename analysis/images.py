"""Figures as files: SVG, PDF and PNG made from the definition that the page shows, with the light theme."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
EACH = 12  # figures that pay for the start of a process


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


@contextlib.contextmanager
def written(figures: Sequence[Figure], folder: Path, *, longest: int = 8) -> Iterator[None]:
    """Have every figure written in every format into `folder` meanwhile; images of no figure are removed.

    `longest` is the length of the longest name in the legends, which says how many fit beside each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    look = config(columns=max(1, WIDTH // (34 + 7 * longest)))
    jobs = deque(json.dumps(_job(figure, folder, look)) for figure in figures)
    many = max(1, min(os.cpu_count() or 1, len(jobs) // EACH))
    with ThreadPoolExecutor(many) as pool:
        drawers = [pool.submit(_draw, jobs) for _ in range(many if jobs else 0)]
        try:
            yield
        except BaseException:
            jobs.clear()
            raise
    for drawer in drawers:
        drawer.result()
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


def _draw(jobs: deque[str]) -> None:
    """Have a process of its own draw of `jobs`, which several share, until none is left."""
    command = [sys.executable, "-P", drawing.__file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdin and process.stdout
        with contextlib.suppress(IndexError, BrokenPipeError):  # nothing left; the process ended
            while True:
                print(jobs.popleft(), file=process.stdin, flush=True)
                if not process.stdout.readline():
                    break
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    if process.returncode:
        jobs.clear()
        raise UserError(f"drawing a figure failed (exit code {process.returncode}); see above")
