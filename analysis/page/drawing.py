"""One definition drawn as SVG, PDF and PNG. Run as a program, it draws each line of its standard input.

Imports none of ours, so that a process that only draws starts at once.
"""

import functools
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import vl_convert

# Latin, Greek, Cyrillic; dashes, quotes, the ellipsis, and a few signs
LETTERS = ((0, 0x36F), (0x384, 0x3CE), (0x400, 0x45F), (0x2013, 0x2014), (0x2018, 0x201E))
SIGNS = frozenset(map(ord, "…€←↑→↓\u2212√∞≈≠≤≥"))
FONTS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")


def draw(name: str, spec: str, config: dict[str, Any]) -> None:
    """Write `name`.svg, .pdf and .png of `spec`, a definition as ASCII JSON.

    Equal definitions give equal SVG and PNG; the converter writes the parts of a PDF in any order.
    """
    if not all(map(in_own_fonts, re.findall(r"\\u([0-9a-f]{4})", spec))):
        find_fonts()
    svg = vl_convert.vegalite_to_svg(spec, config=config)
    Path(f"{name}.svg").write_text(svg, encoding="utf-8")
    Path(f"{name}.pdf").write_bytes(vl_convert.svg_to_pdf(svg))
    Path(f"{name}.png").write_bytes(vl_convert.svg_to_png(svg, scale=2))


def in_own_fonts(code: str) -> bool:
    """Whether the converter's own fonts surely have a character."""
    number = int(code, 16)
    return number in SIGNS or any(first <= number <= last for first, last in LETTERS)


@functools.cache
def find_fonts() -> None:
    """Let what its own fonts lack be drawn with this machine's; what they have looks as before."""
    for folder in map(os.path.expanduser, FONTS):
        if os.path.isdir(folder):
            vl_convert.register_font_directory(folder)


if __name__ == "__main__":
    vl_convert.vegalite_to_svg({"mark": "point"})  # starts its engine, which takes a second
    for line in sys.stdin:
        job = json.loads(line)
        try:
            draw(**job)
        except OSError as error:
            sys.exit(f"cannot write {job['name']}: {error.strerror}")
        print("drawn", flush=True)
