"""Figures as files: the same image for the same definition, and errors that are reported."""

import os
import re
import subprocess
import sys

import pytest

from analysis import report
from analysis.figures.figure import Figure
from analysis.page import images
from experiments.errors import UserError


def test_a_figure_that_cannot_be_drawn_is_an_error(tmp_path, capfd):
    bad = Figure("bad", "rank", "", "", "", {"mark": "no such mark"})
    with pytest.raises(UserError, match="drawing a figure failed"), images.Drawing(tmp_path) as given:
        given.add(bad, {})
    assert "draw(**job)" in capfd.readouterr().err


def test_an_image_that_cannot_be_written_is_named(tmp_path, capfd):
    (tmp_path / "one.svg").mkdir()
    with pytest.raises(UserError, match="drawing a figure failed"), images.Drawing(tmp_path) as given:
        given.add(bar("one", "a"), {})
    assert capfd.readouterr().err == f"cannot write {tmp_path / 'one'}: Is a directory\n"


def test_where_no_second_process_can_start_the_first_one_ends(tmp_path, monkeypatch):
    started, start = [], images.Process

    def once(*args, **options):
        if started:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(start(*args, **options))
        return started[0]

    monkeypatch.setattr(images, "Process", once)
    monkeypatch.setattr(images.os, "cpu_count", lambda: 2)
    with (
        pytest.raises(UserError, match="cannot start a process that draws figures"),
        images.Drawing(tmp_path),
    ):
        pass
    assert started[0].wait(timeout=20) != 0


def test_drawing_ends_where_the_rest_of_a_report_fails(tmp_path):
    figures = [Figure(f"f{i}", "rank", "", "", "", {"mark": "no such mark"}) for i in range(3)]
    with pytest.raises(ZeroDivisionError), images.Drawing(tmp_path) as given:
        for figure in figures:
            given.add(figure, {})
        raise ZeroDivisionError


def bar(name, text):
    spec = {"mark": "bar", "encoding": {"x": {"datum": text, "type": "nominal"}, "y": {"datum": 2}}}
    return Figure(name, "rank", "", "", "", spec)


def test_every_figure_has_its_images_and_those_of_others_go(tmp_path):
    (tmp_path / "stale.png").touch()
    with images.Drawing(tmp_path) as given:
        for figure in (bar("one", "a"), bar("two", "a"), bar("three", "b")):
            given.add(figure, images.theme_of(["a"]))
    names = {f"{name}.{form}" for name in ("one", "two", "three") for form in images.FORMATS}
    assert {path.name for path in tmp_path.iterdir()} == names
    for form in images.FORMATS:
        one, two, three = ((tmp_path / f"{name}.{form}").read_bytes() for name in ("one", "two", "three"))
        assert one == two != three


def test_a_character_of_another_script_changes_no_other_figure(tmp_path):
    command = [sys.executable, "-c", f"""if True:
        from analysis.page import drawing
        import json
        at = lambda text: {{"x": {{"datum": text, "type": "nominal"}}}}
        spec = lambda text: json.dumps({{"mark": "bar", "encoding": at(text)}})
        for i, text in enumerate(("plain", "Größe ≤ 2", "\u4e2d\u2713", "Größe ≤ 2", "plain")):
            drawing.draw(r"{tmp_path}/" + str(i), spec(text), {{"font": "'Liberation Sans'"}})
            print(drawing.find_fonts.cache_info().currsize)
    """]  # fmt: skip
    environment = os.environ | {"FONTCONFIG_FILE": str(images.OWN_FONTS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0", "1", "1", "1"]
    for form in ("svg", "png"):
        drawn = [(tmp_path / f"{i}.{form}").read_bytes() for i in range(5)]
        assert drawn[0] == drawn[4] and drawn[1] == drawn[3]


@pytest.mark.parametrize("width", images.PRINT)
def test_images_for_print_have_their_width_and_text_of_8_pt(writer, width):
    """One pixel of an SVG is one point of the PDF that is made of it."""
    w = writer(n_examples=300)
    w.grid(("lora", "dora"), (4, 8), range(3))
    figures = report.build(w.root, width=width).parent / "figures"
    for path in figures.glob("*.svg"):
        svg = path.read_text()
        assert width * 0.9 < float(re.search(r'<svg[^>]* width="([\d.]+)"', svg)[1]) < width + 0.5, path.name
        assert set(re.findall(r'font-size="([\d.]+)px"', svg)) == {"8"}, path.name
        pdf = path.with_suffix(".pdf").read_bytes()
        assert float(re.search(rb"MediaBox \[0 0 ([\d.]+)", pdf)[1]) < width + 0.5
