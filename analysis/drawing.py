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
    """Write `name`.svg, .pdf and .png of `spec`, a definition as ASCII JSON."""
    if not all(map(in_own_fonts, re.findall(r"\\u([0-9a-f]{4})", spec))):
        find_fonts()
    svg = vl_convert.vegalite_to_svg(spec, config=config)
    Path(f"{name}.svg").write_text(svg, encoding="utf-8")
    Path(f"{name}.pdf").write_bytes(canonical(vl_convert.svg_to_pdf(svg)))
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


def canonical(pdf: bytes) -> bytes:
    """The same drawing in the same bytes each time, whatever order the converter wrote its parts in.

    It writes the names of resources, and the fonts, in an order that changes from call to call, and numbers
    the objects of a font (its metrics, its characters, its outlines) in the order of writing. Here names and
    fonts ascend, and the objects of fonts are numbered anew.
    """
    table = int(pdf[pdf.rindex(b"startxref") :].split()[1])
    starts = sorted(int(at) for at in re.findall(rb"^(\d{10}) \d{5} n", pdf[table:], re.M))
    objects = [pdf[start:end] for start, end in zip(starts, [*starts[1:], table], strict=True)]
    objects = [re.sub(rb"(?m)(?:^ +/[A-Za-z]+\d+ \d+ 0 R\n)+", _sorted_lines, part) for part in objects]
    fonts = [at for at, part in enumerate(objects) if b"/Subtype /Type0" in part]
    if fonts:
        groups = [_font(objects, at) for at in fonts]
        first, last = fonts[0], fonts[-1] + len(groups[-1])
        objects[first:last] = _renumbered(sorted(groups, key=lambda group: _number(group[0])))
    return _assembled(pdf[: starts[0]], objects, pdf[table:])


def _sorted_lines(lines: re.Match[bytes]) -> bytes:
    return b"".join(sorted(lines[0].splitlines(True)))


def _number(part: bytes) -> int:
    return int(part[: part.index(b" ")])


def _font(objects: list[bytes], at: int) -> list[bytes]:
    """A font and the objects after it that are its own: they are numbered one after the other."""
    end = at + 2
    while end < len(objects) and _number(objects[end]) == _number(objects[end - 1]) + 1:
        end += 1
    return objects[at:end]


def _renumbered(groups: list[list[bytes]]) -> list[bytes]:
    """The objects of fonts in a row, with ascending numbers for all but the fonts themselves."""
    old = [_number(part) for group in groups for part in group[1:]]
    new = dict(zip(old, sorted(old), strict=True))
    renamed = lambda found: b"%d 0 %b" % (new.get(int(found[1]), int(found[1])), found[2])  # noqa: E731
    out: list[bytes] = []
    for part in (part for group in groups for part in group):
        head, stream, rest = part.partition(b"stream\n")
        out.append(re.sub(rb"\b(\d+) 0 (obj|R)\b", renamed, head) + stream + rest)
    return out


def _assembled(header: bytes, objects: list[bytes], table: bytes) -> bytes:
    """A file of these objects: its table says where each of them, by number, now begins."""
    places: dict[int, int] = {}
    at = len(header)
    for part in objects:
        places[_number(part)] = at
        at += len(part)
    order = iter(sorted(places))
    table = re.sub(rb"(?m)^\d{10}(?= \d{5} n)", lambda _: b"%010d" % places[next(order)], table)
    table = re.sub(rb"startxref\s+\d+", b"startxref\n%d" % at, table)
    return header + b"".join(objects) + table


if __name__ == "__main__":
    vl_convert.vegalite_to_svg({"mark": "point"})  # starts its engine, which takes a second
    for line in sys.stdin:
        job = json.loads(line)
        try:
            draw(**job)
        except OSError as error:
            sys.exit(f"cannot write {job['name']}: {error.strerror}")
        print("drawn", flush=True)
