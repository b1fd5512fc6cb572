"""What `python -m experiments.data` prints."""

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


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["csv", "pth=x"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: csv has no option 'pth'. Did you mean 'path'? Known: path, text, label, missing, separator, "
    )
    assert main(["nothing"]) == 2
    assert main([]) == 2
    assert main(["--help"]) == 0
