"""The report of a study in any state: complete, honest, safe to open, and the same bytes each time."""

import ast
import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import analysis
from analysis import report
from analysis.page import images

EVIL = '<script>alert(1)</script>=cmd|"x"'


class Page(HTMLParser):
    """What a page would load, and its tags."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        wanted = {"src", "srcset", "data", "action"} | ({"href"} if tag != "a" else set())
        self.loads += [value for name, value in attrs if name in wanted]


def data_of(page: str) -> dict:
    """What the page hands to its script."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def built(w, name: str) -> str:
    """The text of one file of the report of what `w` has written."""
    return (report.build(w.root, images_too=False).parent / name).read_text()


def test_the_report_is_complete(demo):
    names = {str(p.relative_to(demo)) for p in demo.rglob("*") if p.is_file()}
    assert {"report.html", "report.md", "results.csv", "results.parquet", "runs.csv"} <= names
    figures = ("metric_by_rank", "metric_by_trainable_parameters", "metric_by_step_ms", "loss_curves")
    assert {f"figures/{name}.{kind}" for name in figures for kind in ("svg", "png", "pdf")} <= names


def test_the_page_loads_nothing(demo):
    page = (demo / "report.html").read_text()
    assert [load for load in Page(page).loads if load != "data:,"] == []
    assert "default-src 'none'" in page


def contents(folder):
    """The bytes of every file; of a PDF, whose parts the converter writes in any order, those of its SVG."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path: path.with_suffix(".svg" if path.suffix == ".pdf" else path.suffix).read_bytes()
        for path in files
    }


def test_the_same_records_give_the_same_bytes(demo):
    first = contents(demo)
    (demo / "figures" / "metric_by_luck.svg").write_text("<svg/>")
    report.build(demo.parent)
    again = contents(demo)
    assert set(again) == set(first)  # the image of a figure that is no more has gone
    assert [p.name for p in first if first[p] != again[p]] == []


def test_three_processes_draw_the_same_images_as_one(demo, monkeypatch):
    first = contents(demo / "figures")
    for path in first:
        path.unlink()
    monkeypatch.setattr(images, "EACH", 1)
    monkeypatch.setattr(images.os, "cpu_count", lambda: 3)
    report.build(demo.parent)
    assert contents(demo / "figures") == first


def test_one_seed_is_said_to_decide_nothing(demo):
    text = (demo / "report.md").read_text()
    assert "Nothing is decided yet" in text
    assert "One seed cannot show" in text
    assert "200 test examples alone makes each result uncertain by" in text


def test_rates_shared_where_scale_times_rank_differs_are_pointed_out(demo, writer):
    assert "times its rank" not in (demo / "report.md").read_text()  # alpha / r at ranks 4 and 16: s r is 16
    w = writer()
    for r in (4, 16):
        w.run(w.spec("lora", r, 0, alpha=2.0 * r))
    assert "the scale of BA times its rank is 8 in some and 32 in others" in built(w, "report.md")


def test_a_study_without_a_completed_run_says_so(writer):
    w = writer()
    w.run(w.spec("dora", 8, 0), status="diverged")
    folder = report.build(w.root, images_too=False).parent
    text = (folder / "report.md").read_text()
    assert "No run has been completed" in text
    assert "not finite at step 41" in text
    assert "Answer" in (folder / "report.html").read_text()


def test_one_run_is_compared_with_nothing(writer):
    w = writer()
    w.grid(variants=("dora",), ranks=(8,))
    assert "nothing to compare" in built(w, "report.md")


def test_no_unknown_number_is_printed(writer):
    w = writer()
    w.run(w.spec("lora", 8, 0), cost={}, data={}, env={}, history=False)
    w.run(w.spec("probe", 0, 0), cost={}, data={}, env={}, history=False)
    folder = report.build(w.root, images_too=False).parent
    page = (folder / "report.html").read_text()
    visible = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)
    for text in (visible, (folder / "report.md").read_text(), (folder / "results.csv").read_text()):
        assert not re.search(r"\b(nan|NaN|None|inf|Infinity)\b", text)


def test_names_with_markup_are_text_everywhere(writer):
    w = writer()
    w.run(w.spec("lora", 8, 0, dataset=EVIL, variant_options__note=EVIL), deviations=[EVIL])
    w.run(w.spec("lora", 8, 0, dataset=EVIL, variant_options__note="|a|*b*"), status="failed", error=EVIL)
    folder = report.build(w.root, images_too=False).parent
    page = (folder / "report.html").read_text()
    assert EVIL not in page
    assert Page(page).tags.count("script") == 4
    assert data_of(page)["runs"]["cells"][0]["spec"]["dataset"] == EVIL
    text = (folder / "report.md").read_text().replace("\\<", "")
    assert not [line for line in text.splitlines() if "<script>" in line and not line.startswith("    ")]


def test_no_spreadsheet_takes_a_name_for_a_formula(writer):
    w = writer()
    w.run(w.spec("=1+1", 8, 0, dataset="@sum", targets="-x"))
    folder = report.build(w.root, images_too=False).parent
    row = next(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert (row["variant"], row["dataset"], row["targets"]) == ("'=1+1", "'@sum", "'-x")


def test_csv_holds_numbers_at_full_precision(writer):
    w = writer()
    record = w.run(w.spec("lora", 8, 0))
    row = next(csv.DictReader(built(w, "results.csv").splitlines()))
    assert float(row["mean"]) == record["metrics"]["test/accuracy"]


def test_every_run_comes_with_the_command_that_repeats_it(writer):
    w = writer()
    w.run(w.spec("dora", 8, 3, targets=["q_proj", "v_proj"], dataset_options={"path": "my data.csv"}))
    command = data_of((report.build(w.root, images_too=False)).read_text())["runs"]["cells"][0]["command"]
    parts = "variant=dora r=8 seed=SEED targets=[q_proj,v_proj] train.steps=150 variant.scaling=alpha_over_r"
    for part in parts.split():
        assert part in command
    assert "dataset.path=" in command and "my data.csv" in command


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_the_command_line_answers_a_mistake_in_one_sentence(tmp_path, name, capsys):
    (tmp_path / "empty").mkdir()
    assert report.main([str(tmp_path / name)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1


def test_the_command_line_prints_the_path_of_the_page(writer, capsys):
    w = writer()
    w.grid(ranks=(4,))
    assert report.main([str(w.root), "--no-images"]) == 0
    assert Path(capsys.readouterr().out.strip()).read_text().startswith("<!DOCTYPE html>")
    assert not (w.root / "report" / "figures").exists()


def test_the_analysis_imports_nothing_that_trains():
    banned = {"torch", "transformers", "hydra", "omegaconf", "variants"}
    for path in Path(analysis.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not banned & {name.split(".")[0] for name in names}, path
    code = (
        "import sys, analysis.report, analysis.audit; sys.exit(bool({'torch', 'hydra'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
