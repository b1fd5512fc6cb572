"""What `python -m experiments.data` prints."""

import json

import pytest

from experiments.data.__main__ import main


def test_a_dataset_is_shown_with_sizes_classes_examples_and_hash(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("review,stars\n" + "".join(f"film {i},{i % 2}\n" for i in range(100)))
    assert main(["csv", f"path={path}", "dataset.label=stars"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "csv: classification, 100 examples",
        "2 classes: 0 50, 1 50",
        ": film ",
        "fingerprint ",
        "guessed",
    ):
        assert part in shown


@pytest.mark.parametrize(
    ("kind", "rows", "shown"),
    [
        (
            "multilabel",
            [{"text": f"a {i}", "labels": "x,y" if i % 2 else "x"} for i in range(80)],
            "x, y: a ",
        ),
        ("regression", [{"text": f"a {i}", "second": f"b {i}", "label": i / 2} for i in range(80)], ".5: a "),
        (
            "choice",
            [{"question": f"a {i}", "choices": ["one", "two"], "label": i % 2} for i in range(80)],
            "right:  two",
        ),
        ("language_modeling", [{"text": f"plain text {i}"} for i in range(80)], "    plain text "),
    ],
)
def test_every_kind_of_task_is_shown(kind, rows, shown, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["name=mine", f"kind={kind}", f"path={tmp_path / 'rows.jsonl'}"]
    words += ["second=second"] if kind == "regression" else []
    assert main(["hub", *words]) == 0
    said = capsys.readouterr().out
    assert f"mine: {kind}, 80 examples" in said and shown.replace("  ", " ") in said


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["csv", "pth=x"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: csv has no option 'pth'. Did you mean 'path'? Known: path, text, label, missing, separator, "
    )
    assert main(["nothing"]) == 2
    assert main([]) == 2
    assert main(["--help"]) == 0
