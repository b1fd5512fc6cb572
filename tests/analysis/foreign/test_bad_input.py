"""Files that cannot be read get one sentence: what was given, what is allowed, the nearest, what to do."""

import json

import pytest

from analysis import audit


def csv_with(tmp_path, text):
    path = tmp_path / "r.csv"
    path.write_text(text)
    return [path]


ROW = "lora,rte,1e-3,0,0.5\n"
HEAD = "method,task,lr,seed,accuracy\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "metod,task,lr,seed,accuracy\n" + ROW,
            "no column for the method, which may be called method, variant",
        ),
        ("metod,task,lr,seed,accuracy\n" + ROW, "The nearest is 'metod': rename it."),
        ("method,task,lr,seed,acuracy\n" + ROW, "no column for the score"),
        ("method,task,lr,seed,ppl\n" + ROW, "if it is of the test set, add --metric ppl"),
        ("method,task,lr,seed,accuracy,f1\nlora,rte,1e-3,0,0.5,0.4\n", "several scores: accuracy, f1"),
        (HEAD + "lora,rte,1e-3,0,good\n", "line 2: accuracy is 'good', which is no number"),
        (HEAD + "lora,rte,fast,0,0.5\n", "line 2: lr is 'fast', which is no number"),
        (HEAD + "lora,rte,1e-3,0.5,0.5\n", "line 2: seed is 0.5, which is no whole number"),
        (HEAD + ROW + ROW, "line 2 and r.csv, line 3 both are lora on rte with seed 0"),
        (HEAD + ",rte,1e-3,0,0.5\n", "line 2: the method is empty"),
        (HEAD + "lora,rte,1e-3,0\n", "line 2 has 4 values, the heading names 5 columns"),
        (HEAD, "holds no run"),
        ("method,task,seed,accuracy,n\nlora,rte,0,0.5,many\n", "n is 'many', which is no number"),
        ("method,task,seed,split,accuracy\nlora,rte,0,hidden,0.5\n", "the split is 'hidden'"),
        ("method,task,seed,state,accuracy\nlora,rte,0,odd,0.5\n", "the status is 'odd', which is none of"),
        (HEAD + "dora,rte,1e-3,0,0.5\n", "no method is called lora"),
    ],
)
def test_a_csv_that_cannot_be_read(tmp_path, audited, text, told):
    code, printed, _ = audited(csv_with(tmp_path, text), "csv")
    assert code == 2 and told in printed and printed.count("\n") == 1


def test_scores_in_per_cent_are_taken_as_such_and_said(tmp_path, audited):
    code, text, _ = audited(csv_with(tmp_path, HEAD + ROW + "dora,rte,1e-3,0,52.5\n"), "csv")
    assert code == 0 and "Scores above 1 were taken as per cent." in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--examples", "mnli=5"], "names the task 'mnli', of which there is no result. The tasks are rte."),
        (["--examples", "few"], "--examples few: give a whole number"),
        (["--metric", "f1"], "has no column for the metric 'f1'; it has accuracy"),
        (["--baseline", "lorra"], "did you mean"),
    ],
)
def test_options_that_fit_nothing(tmp_path, audited, words, told):
    code, text, _ = audited(csv_with(tmp_path, HEAD + ROW), "csv", *words)
    assert code == 2 and told.lower() in text.lower()


@pytest.mark.parametrize("content", ["[]", "{", '{"run_info": {}}', json.dumps({"run_info": {"a": 1}})])
def test_a_file_that_is_not_peft_s(tmp_path, audited, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    code, text, _ = audited([path], "peft")
    assert code == 2 and "x.json is no" in text and text.count("\n") == 1


def test_a_file_needs_its_format(tmp_path, capsys):
    (path,) = csv_with(tmp_path, HEAD + ROW)
    assert audit.main([str(path)]) == 2
    assert "is a file: for results of others add --format csv, peft or wandb" in capsys.readouterr().err


def test_a_folder_with_runs_is_not_written_over(tmp_path, audited):
    paths = csv_with(tmp_path, HEAD + ROW)
    assert audited(paths, "csv")[0] == 0
    code, text, _ = audited(paths, "csv")
    assert code == 2 and "holds runs already. Audit them again with python -m analysis.audit" in text


def test_a_file_that_is_not_there(tmp_path, audited):
    code, text, _ = audited([tmp_path / "none.csv"], "csv")
    assert code == 2 and "there is no file" in text
