"""python -m experiments.predict: texts and tables in, tables out, and its mistakes in one sentence."""

import csv
import io
import json
import re
import shutil

import pytest
from safetensors.torch import load_file, save_file

from experiments.export.__main__ import main as export_main
from experiments.predict.__main__ import main


def test_lines_of_text_from_a_file(finished, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("good 4\n\nbad 1\n")
    runs = [str(finished("lora")), str(finished("dora"))]
    assert main([*runs, "--input", str(tmp_path / "in.txt")]) == 0
    said = capsys.readouterr()
    table = list(csv.DictReader(io.StringIO(said.out)))
    assert [(r["row"], r["text"]) for r in table] == [("1", "good 4")] * 2 + [("3", "bad 1")] * 2
    assert list(table[0]) == ["row", "run", "text", "prediction", "score no", "score yes"]
    for row in table:
        scores = {label: float(row[f"score {label}"]) for label in ("no", "yes")}
        assert sum(scores.values()) == pytest.approx(1) and max(scores, key=scores.get) == row["prediction"]
    assert "runs 2, packs 1, texts 2 (1 empty skipped)" in said.err


def test_tables_in_and_out(finished, tmp_path, rows):
    run, texts = str(finished("lora")), ["good 4", "bad, bad 1"]
    (tmp_path / "in.csv").write_text('nr,text\n1,good 4\n2,"bad, bad 1"\n')
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"review": t, "n": 1}) + "\n" for t in texts))
    assert main([run, "--input", str(tmp_path / "in.csv")]) == 0
    from_csv = rows()
    out = tmp_path / "out.jsonl"
    assert main([run, "--input", str(tmp_path / "in.jsonl"), "--text", "review", "--output", str(out)]) == 0
    from_json = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["text"] for r in from_csv] == [r["text"] for r in from_json] == texts
    for one, other in zip(from_csv, from_json, strict=True):
        assert one["prediction"] == other["prediction"]
        assert float(one["score no"]) == pytest.approx(other["scores"]["no"], abs=1e-6)


def test_texts_from_the_standard_input(finished, monkeypatch, rows):
    for words, typed in (
        (["--input", "-"], b"good 4\n"),
        (["--input", "-", "--input-format", "csv"], b"text\ngood 4\n"),
    ):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed)))
        assert main([str(finished("lora")), *words]) == 0
        assert [r["text"] for r in rows()] == ["good 4"]


def test_prompts_and_chats_in_a_table(finished, tmp_path, rows):
    chat = [{"role": "user", "content": "say a"}, {"role": "assistant", "content": "aaa"}]
    for name, line in (("prompts", {"prompt": "say a"}), ("chats", {"messages": chat})):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
        run = str(finished("lora", model="llama", targets="all"))
        assert main([run, "--input", str(tmp_path / f"{name}.jsonl"), "--max-new-tokens", "3"]) == 0
        (row,) = rows()
        assert row["text"] == "say a" and list(row) == ["row", "run", "text", "prediction"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "in.txxt"], "there is no file .*in.txxt. Did you mean 'in.txt'"),
        (["--input", "."], ". is a folder. Give a file of texts"),
        (["--input", "empty.txt"], "holds no text"),
        (
            ["--input", "in.csv", "--text", "reviw"],
            "--text reviw: there is no such column. There are: review, stars. Did you mean 'review'",
        ),
        (["--input", "odd.csv"], "none of the columns a, b is named like a text .*--text <column>"),
        (["--input", "cyrillic.txt"], "is not UTF-8 text, and its encoding cannot be detected"),
        (["--input", "nested.jsonl", "--text", "x"], "input, row 1, x holds .* which is not one text"),
        (["--input", "in.txt", "--output", "out.xlsx"], "give a name that ends in .csv or .jsonl"),
        (
            ["--input", "in.txt", "--text", "review"],
            "--text review names a column, but in.txt is read as lines",
        ),
        (["--input", "in.txt", "--batch-size", "0"], "--batch-size 0: expected 1 or more"),
    ],
)
def test_a_mistake_is_one_sentence(words, message, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = {
        "in.txt": "good 1\n",
        "empty.txt": "\n \n",
        "in.csv": "review,stars\ngood,1\n",
        "odd.csv": "a,b\n1,2\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "cyrillic.txt").write_bytes("фильм\n".encode("cp1251"))
    (tmp_path / "nested.jsonl").write_text('{"x": {"y": 5}}\n')
    assert main([str(finished("lora")), *words]) == 2
    said = capsys.readouterr()
    assert re.search(message, said.err) and not said.out


def test_all_of_a_study_passes_over_its_report(finished, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("good 1\n")
    study = tmp_path / "demo"
    for variant in ("lora", "dora"):
        shutil.copytree(finished(variant), study / finished(variant).name)
    (study / "report").mkdir()
    (study / "report/report.html").write_text("figures")
    (study / "notes.md").write_text("mine")
    caught = sorted(str(path) for path in study.iterdir())
    assert len(caught) == 4 and main([*caught, "--input", str(tmp_path / "in.txt")]) == 0
    said = capsys.readouterr()
    assert {row["run"] for row in csv.DictReader(io.StringIO(said.out))} == {
        p.name for p in study.glob("*-bert*")
    }
    for name in ("report", "notes.md"):
        assert f"note: {study / name} is not a run and is ignored" in said.err
    assert main([str(study / "report"), "--input", str(tmp_path / "in.txt")]) == 2
    assert main([*caught, str(study / "gone"), "--input", str(tmp_path / "in.txt")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_labels_are_of_adapters_and_refused_for_runs(finished, tmp_path, capsys):
    run = str(finished("lora"))
    for command, words in (
        (main, ["--input", "in.txt"]),
        (export_main, [str(tmp_path / "out"), "--to", "merged"]),
    ):
        assert command([run, *words, "--labels", "a,b"]) == 2
        assert f"--labels a,b is for an adapter of PEFT, but {run} is a run" in capsys.readouterr().err


def test_a_base_that_was_moved_is_given_anew_and_must_be_the_same(
    finished, tiny_bert, tmp_path, capsys, rows
):
    """A copy gives the same answers; a changed one is refused, before it is loaded where that can be told."""
    copied = shutil.copytree(finished("lora"), tmp_path / finished("lora").name)
    record = json.loads((copied / "record.json").read_text())
    del record["sha256"]
    del record["spec"]["model_options"]["content"]  # as for a model of the hub
    (copied / "record.json").write_text(json.dumps(record))
    run, moved = str(finished("lora")), shutil.copytree(tiny_bert, tmp_path / "moved")
    (tmp_path / "in.txt").write_text("good 1\nbad 2\n")
    words = [run, "--input", str(tmp_path / "in.txt")]
    assert main(words) == 0
    before = rows()
    assert main([*words, "--model", str(moved)]) == 0
    assert rows() == before
    exported = [run, str(tmp_path / "out"), "--to", "peft", "--model", str(moved)]
    assert export_main(exported) == 0
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(moved)
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    weights = load_file(moved / "model.safetensors")
    save_file({n: t + 1 for n, t in weights.items()}, moved / "model.safetensors", {"format": "pt"})
    for given, place, message in (
        (run, moved, f"--model {moved} is not the base of {copied.name}"),
        (str(copied), moved, "its base has changed"),  # by the weights alone
        (run, tmp_path / "gone", "there is no such folder"),
    ):
        capsys.readouterr()
        assert main([given, *words[1:], "--model", str(place)]) == 2
        assert message in capsys.readouterr().err


def test_runs_that_cannot_share_a_model_are_refused(finished, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("good 1\n")
    words = ["--input", str(tmp_path / "in.txt")]
    assert main([str(finished("lora")), str(finished("lora", model="gpt2")), *words]) == 2
    assert "have different bases" in capsys.readouterr().err
    assert main([str(finished("lora")), str(finished("lora")), *words]) == 2
    assert "is given twice" in capsys.readouterr().err
