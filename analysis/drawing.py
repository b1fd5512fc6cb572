"""One definition drawn as SVG, PDF and PNG. Run as a program, it draws the jobs on its standard input.

Imports none of ours, so that a second process starts at once.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import vl_convert


def draw(name: str, spec: dict[str, Any], config: dict[str, Any]) -> None:
    """Write `name`.svg, .pdf and .png."""
    svg = vl_convert.vegalite_to_svg(spec, config=config)
    Path(f"{name}.svg").write_text(svg, encoding="utf-8")
    Path(f"{name}.pdf").write_bytes(pdf(svg))
    Path(f"{name}.png").write_bytes(vl_convert.svg_to_png(svg, scale=2))


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


if __name__ == "__main__":
    for job in json.load(sys.stdin):
        draw(**job)
