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
from analysis.figures.figure import HEIGHT, Figure
from analysis.page import drawing
from experiments.errors import UserError
from experiments.files import explained, replacing

_GLOBALS = "window.vegaEmbed = vegaEmbed; window.vegaLite = vegaLite; window.vega = vega;"
FORMATS = ("svg", "pdf", "png")
PRINT = (240, 500)  # widths of images in pt: a column of a paper, and a page
SCALE = 8 / 12  # of text and marks, from the page's to print's
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


def theme_of(names: Collection[str], width: int = PRINT[-1]) -> dict[str, Any]:
    """The configuration of images of this width whose legends hold these names, with text of 8 pt."""
    longest = max(map(len, names), default=8)
    columns = max(1, int(width // (22 + 4.6 * longest)))
    return theme.config(columns=columns, font=IMAGE_FONT, scale=SCALE)


class Drawing:
    """Has figures drawn by processes of their own, in every format, from the moment that they are given.

    Use as a context, at whose end all are drawn and images of no figure are removed. The first processes
    start at its begin, as they take a second to be ready. Two figures of one definition are drawn once.

    Args:
        folder: for the images.
        width: of each, in pt.
    """

    def __init__(self, folder: Path, width: int = PRINT[-1]):
        self.folder, self.width = folder, width
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
        spec = json.dumps(on_paper(figure.spec, self.width))
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


def on_paper(spec: dict[str, Any], width: int) -> dict[str, Any]:
    """A figure's definition for print: of this width in pt, with marks and distances to match 8 pt text."""
    found = _scaled(spec)
    assert isinstance(found, dict)
    if "facet" in found:
        inner = found["spec"]
        columns = min(found.get("columns") or 1, 2 if width < PRINT[-1] else 3)
        each = (width - 34) // columns - 14
        height = min(float(inner.get("height", 220)), each * 0.9)
        found |= {"columns": columns, "spec": inner | {"width": each, "height": height}}
    elif found.get("width") == "container":
        found |= {"width": width, "autosize": {"type": "fit-x", "contains": "padding"}}
        if found.get("height", 0) > width * 0.7 and found["height"] == HEIGHT * SCALE:
            found["height"] = width * 0.7
    return found | {"padding": found.get("padding", 4), "background": "white"}


def _scaled(node: Any, key: str = "") -> Any:
    """A definition with smaller marks, and with text of the theme's size."""
    if isinstance(node, list):
        return [_scaled(one, key) for one in node]
    if not isinstance(node, dict):
        return node
    if key in ("data", "datasets"):
        return node
    out = {name: _scaled(value, name) for name, value in node.items()}
    if key == "mark":
        out.pop("fontSize", None)
        out |= {name: out[name] * SCALE for name in ("dx", "dy", "strokeWidth", "thickness") if name in out}
        out |= {"size": out["size"] * SCALE**2} if "size" in out else {}
    for name in ("height", "padding", "labelLimit"):
        if isinstance(out.get(name), int | float):
            out[name] = out[name] * SCALE
        elif name == "padding" and isinstance(out.get(name), dict):
            out[name] = {side: value * SCALE for side, value in out[name].items()}
    return out


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
