"""Figures as files: the same bytes for the same drawing, and errors that are told."""

import hashlib
import re

import pytest
import vl_convert

from analysis import drawing, images
from analysis.figures.figure import Figure
from analysis.figures.theme import FONT
from experiments.errors import UserError

KINDS = ("", 'font-weight="bold"', 'font-style="italic"')
SVG = "".join(f'<text y="{20 * i + 20}" {kind}>Some {i}</text>' for i, kind in enumerate(KINDS))
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" width="90" height="99" font-family="{FONT}">{SVG}</svg>'


def meaning(pdf: bytes) -> str:
    """A hash of the catalogue with all that it refers to, whatever the numbers and the order of parts."""
    table = int(pdf[pdf.rindex(b"startxref") :].split()[1])
    assert pdf[table:].startswith(b"xref")
    starts = [int(at) for at in re.findall(rb"^(\d{10}) 00000 n", pdf[table:], re.M)]

    def of(number: int) -> bytes:
        found = re.match(rb"(\d+) 0 obj\n(.*?)\nendobj", pdf[starts[number - 1] : table], re.S)
        assert int(found[1]) == number  # the table is right
        head, _, stream = found[2].partition(b"stream\n")
        head = re.sub(rb"/Parent \d+ 0 R", b"", head)
        head = re.sub(rb"(\d+) 0 R", lambda ref: of(int(ref[1])), head)
        whole = b"\n".join(sorted(head.splitlines())) + stream
        return hashlib.sha256(whole).hexdigest().encode()

    return of(int(re.search(rb"/Root (\d+) 0 R", pdf)[1])).decode()


def test_a_drawing_has_one_form_as_pdf_that_means_what_the_converter_wrote():
    raw = {vl_convert.svg_to_pdf(SVG) for _ in range(12)}
    assert len(raw) > 1
    [pdf] = {drawing.canonical(one) for one in raw}
    assert {meaning(one) for one in raw} == {meaning(pdf)}
    assert len(pdf) == len(raw.pop())
    assert drawing.canonical(pdf) == pdf


def test_a_drawing_without_text_has_one_form_too():
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="5" height="5"/></svg>'
    [pdf] = {drawing.canonical(vl_convert.svg_to_pdf(svg)) for _ in range(3)}
    assert meaning(pdf) == meaning(vl_convert.svg_to_pdf(svg))


def test_a_figure_that_cannot_be_drawn_is_an_error(tmp_path, capfd):
    bad = Figure("bad", "rank", "", "", "", {"mark": "no such mark"})
    with pytest.raises(UserError, match="drawing a figure failed"), images.Drawing(tmp_path) as given:
        given.add([bad])
    assert "draw(**json.loads(line))" in capfd.readouterr().err


def test_drawing_ends_where_the_rest_of_a_report_fails(tmp_path):
    figures = [Figure(f"f{i}", "rank", "", "", "", {"mark": "no such mark"}) for i in range(3)]
    with pytest.raises(ZeroDivisionError), images.Drawing(tmp_path) as given:
        given.add(figures)
        raise ZeroDivisionError
