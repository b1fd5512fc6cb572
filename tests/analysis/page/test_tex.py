"""Tables for papers: every name as it stands, and in bold what the seeds cannot tell from the best."""

import re

from analysis.page import tex
from analysis.runs import cells, load


def rows_of(w):
    study = load.read(w.root)
    text = tex.results(study, cells.cells(study))
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].strip().splitlines()
    return text, {line.split(" & ")[0]: line.split(" & ")[2:] for line in body}


def test_the_best_and_what_is_not_worse_are_bold_by_dataset(writer):
    w = writer(n_examples=800)
    for dataset, effects in (("a", {"dora": 0.12, "rslora": 0.12}), ("b", {"dora": -0.12})):
        w.grid(("lora", "dora", "rslora"), (8,), range(5), effects=effects, dataset=dataset)
    text, rows = rows_of(w)
    assert text.splitlines()[3] == "Variant & Rank & a (accuracy) & b (accuracy) \\\\"
    bold = {name: ["textbf" in cell for cell in row] for name, row in rows.items()}
    assert bold == {"lora": [False, True], "dora": [True, False], "rslora": [True, True]}
    assert re.match(r"\\textbf\{0\.\d{3}\} \[0\.\d{3}, 0\.\d{3}\]", rows["dora"][0])


def test_with_one_seed_nothing_is_bold_and_there_is_no_interval(writer):
    w = writer()
    w.grid(("lora", "dora"), (8,), (0,))
    text, _ = rows_of(w)
    assert "textbf" not in text.split("midrule")[1] and "[0." not in text


def test_names_are_printed_as_they_stand(writer):
    w = writer()
    w.run(w.spec("a_b\\{", 8, 0, dataset="50%_of#it"))
    text, _ = rows_of(w)
    assert r"50\% of\#it (accuracy)" in text
    assert r"a\_b\textbackslash \{" in text
