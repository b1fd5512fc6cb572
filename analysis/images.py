"""Figures as files: SVG, PDF and PNG made from the definition that the page shows, with the light theme."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Self

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


class Drawing:
    """Has figures drawn by processes of their own, in every format, from the moment that they are given.

    Use as a context, at whose end all are drawn and images of no figure are removed. `longest` is the length
    of the longest name in the legends, which says how many fit beside each other.
    """

    def __init__(self, folder: Path, *, longest: int = 8):
        self.folder = folder
        self._look = config(columns=max(1, WIDTH // (34 + 7 * longest)))
        self._jobs: SimpleQueue[str | None] = SimpleQueue()
        self._most = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._most)
        self._drawers: list[Future[None]] = []
        self._wanted: set[str] = set()
        self._given = 0

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def add(self, figures: Sequence[Figure]) -> None:
        """Draw these too."""
        for figure in figures:
            self._jobs.put(json.dumps(_job(figure, self.folder, self._look)))
            self._wanted |= {f"{figure.name}.{kind}" for kind in FORMATS}
        self._given += len(figures)
        for _ in range(len(self._drawers), max(min(1, self._given), min(self._most, self._given // EACH))):
            self._drawers.append(self._pool.submit(_draw, self._jobs))

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            _drain(self._jobs)
        for _ in self._drawers:
            self._jobs.put(None)
        self._pool.shutdown()
        if kind is not None:
            return
        for drawer in self._drawers:
            drawer.result()
        for stale in self.folder.iterdir():
            if stale.suffix[1:] in FORMATS and stale.name not in self._wanted:
                stale.unlink()


def _drain(jobs: SimpleQueue[str | None]) -> None:
    with contextlib.suppress(Empty):
        while True:
            jobs.get_nowait()


def _job(figure: Figure, folder: Path, look: dict[str, Any]) -> dict[str, Any]:
    spec = figure.spec | ({"width": WIDTH} if figure.spec.get("width") == "container" else {})
    return {
        "name": str(folder / figure.name),
        "spec": spec | {"padding": 12, "background": "white"},
        "config": look,
    }


def _draw(jobs: SimpleQueue[str | None]) -> None:
    """Have a process of its own draw of `jobs`, which several share, until it meets None."""
    command = [sys.executable, "-P", drawing.__file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdin and process.stdout
        with contextlib.suppress(BrokenPipeError):  # the process ended
            while (job := jobs.get()) is not None:
                print(job, file=process.stdin, flush=True)
                if not process.stdout.readline():
                    break
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    if process.returncode:
        raise UserError(f"drawing a figure failed (exit code {process.returncode}); see above")
