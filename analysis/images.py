"""Figures as files: SVG, PDF and PNG made from the definition that the page shows, with the light theme."""

import contextlib
import hashlib
import os
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import vl_convert

from analysis.figures import WIDTH, Figure
from analysis.figures.theme import config
from experiments.errors import UserError
from experiments.files import replacing

_GLOBALS = "window.vegaEmbed = vegaEmbed; window.vegaLite = vegaLite; window.vega = vega;"
FORMATS = ("svg", "pdf", "png")


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
    for figure in figures:
        spec = figure.spec | ({"width": WIDTH} if figure.spec.get("width") == "container" else {})
        svg = vl_convert.vegalite_to_svg(spec | {"padding": 12, "background": "white"}, config=look)
        (folder / f"{figure.name}.svg").write_text(svg, encoding="utf-8")
        (folder / f"{figure.name}.pdf").write_bytes(pdf(svg))
        (folder / f"{figure.name}.png").write_bytes(vl_convert.svg_to_png(svg, scale=2))
    wanted = {f"{figure.name}.{kind}" for figure in figures for kind in FORMATS}
    for stale in folder.iterdir():
        if stale.suffix[1:] in FORMATS and stale.name not in wanted:
            stale.unlink()


def pdf(svg: str) -> bytes:
    """The PDF of a drawing, the same bytes each time.

    The converter writes fonts and resource names in an order that changes from call to call. The order of the
    fonts is asked for again until they ascend (there are two of them, rarely three); lines of names are
    sorted in place.
    """
    data = b""
    for _ in range(60):
        data = vl_convert.svg_to_pdf(svg)
        fonts = [
            int(number)
            for number in re.findall(rb"^(\d+) 0 obj\n<<\n +/Type /Font\n +/Subtype /Type0", data, re.M)
        ]
        if fonts == sorted(fonts):
            break
    return re.sub(
        rb"(?m)(?:^ +/[A-Za-z]+\d+ \d+ 0 R\n)+",
        lambda lines: b"".join(sorted(lines[0].splitlines(True))),
        data,
    )
