"""Figures as files: SVG, PDF and PNG made from the definition that the page shows, with the light theme."""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import vl_convert

from analysis.figures import theme
from analysis.figures.figure import WIDTH, Figure
from analysis.page import drawing
from experiments.errors import UserError
from experiments.files import explained, replacing

_GLOBALS = "window.vegaEmbed = vegaEmbed; window.vegaLite = vegaLite; window.vega = vega;"
FORMATS = ("svg", "pdf", "png")
FIRST, EACH = 2, 12  # processes that start at once; figures that pay for the start of another
IMAGE_FONT = "'Liberation Sans', Arial, Helvetica, sans-serif"  # the converter's own; as wide as Arial
# Without the fonts of this machine images are the same everywhere, and made in two thirds of the time.
OWN_FONTS = Path(__file__).parent / "templates" / "fonts.conf"

Process = subprocess.Popen[str]  # one that draws


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


def theme_of(names: Collection[str]) -> dict[str, Any]:
    """The configuration of images whose legends hold these names: the longest says how many fit in a row."""
    longest = max(map(len, names), default=8)
    return theme.config(columns=max(1, WIDTH // (34 + 7 * longest)), font=IMAGE_FONT)


class Drawing:
    """Has figures drawn by processes of their own, in every format, from the moment that they are given.

    Use as a context, at whose end all are drawn and images of no figure are removed. The first processes
    start at its begin, as they take a second to be ready. Two figures of one definition are drawn once.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._jobs: SimpleQueue[str | None] = SimpleQueue()
        self._most = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._most)
        self._processes: list[Process] = []
        self._fed: list[Future[None]] = []
        self._drawn: dict[tuple[str, str], str] = {}  # definitions, and the figure that is drawn of each
        self._like: dict[str, str] = {}  # figures, and the one whose images they share

    def __enter__(self) -> Self:
        try:
            for _ in range(min(self._most, FIRST)):
                self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def _start(self) -> None:
        command = [sys.executable, "-P", drawing.__file__]
        environment = os.environ | {"FONTCONFIG_FILE": str(OWN_FONTS)}
        pipe = subprocess.PIPE
        try:
            process = Process(command, stdin=pipe, stdout=pipe, encoding="utf-8", env=environment)
        except OSError as error:
            raise UserError(
                f"cannot start a process that draws figures: {error}. --no-images does without"
            ) from error
        self._processes.append(process)
        self._fed.append(self._pool.submit(_feed, process, self._jobs))

    def _stop(self) -> None:
        for process in self._processes:
            self._jobs.put(None)
            process.kill()
        self._pool.shutdown()

    def add(self, figure: Figure, config: dict[str, Any]) -> None:
        """Draw this one too, with the configuration that `theme_of` returns."""
        spec = json.dumps(_on_paper(figure.spec))
        self._like[figure.name] = self._drawn.setdefault((spec, json.dumps(config)), figure.name)
        if self._like[figure.name] == figure.name:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._jobs.put(
                json.dumps({"name": str(self.folder / figure.name), "spec": spec, "config": config})
            )
        if len(self._processes) < min(self._most, len(self._drawn) // EACH):
            self._start()

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            self._stop()
            return
        for _ in self._processes:
            self._jobs.put(None)
        try:
            self._pool.shutdown()
        except BaseException:  # interrupted
            self._stop()
            raise
        for fed in self._fed:
            fed.result()
        with explained(self.folder):
            self._complete()

    def _complete(self) -> None:
        """Give figures of one definition the same images, and remove those of no figure."""
        for (name, like), form in itertools.product(self._like.items(), FORMATS):
            if name != like:
                shutil.copyfile(self.folder / f"{like}.{form}", self.folder / f"{name}.{form}")
        for stale in self.folder.iterdir() if self.folder.is_dir() else ():
            if stale.suffix[1:] in FORMATS and stale.stem not in self._like:
                stale.unlink()


def _on_paper(spec: dict[str, Any]) -> dict[str, Any]:
    width = {"width": WIDTH} if spec.get("width") == "container" else {}
    return spec | width | {"padding": 12, "background": "white"}


def _feed(process: Process, jobs: SimpleQueue[str | None]) -> None:
    """Have a process draw of `jobs`, which several share, until it meets None."""
    with process:
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
