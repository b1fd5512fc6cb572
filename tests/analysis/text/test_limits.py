"""What a study of few seeds is said not to show."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import audit
from analysis.compare import datasets, verdicts
from analysis.runs import cells, load
from analysis.text import limits


@pytest.mark.parametrize(
    ("ranks", "accuracies", "said"),
    [
        ((4, 8), (0.6, 0.61), "the other cell lies within that of the best"),
        ((4, 8), (0.2, 0.9), "the other cell does not lie within that of the best"),
        ((4, 8, 16), (0.2, 0.88, 0.9), "1 of the other 2 cells lie within that of the best"),
    ],
)
def test_how_many_cells_the_choice_of_test_examples_leaves_tied(ranks, accuracies, said, writer):
    """200 test examples leave about 0.07 open around a share of 0.6, and 0.04 around one of 0.9."""
    w = writer()
    for r, accuracy in zip(ranks, accuracies, strict=True):
        w.run(w.spec("lora", r, 0), accuracy)
    study = load.read(w.root)
    found = limits.limits(study, cells.cells(study), None)
    assert any(said in text for text in found)


@pytest.mark.parametrize(
    ("poor", "said"),
    [
        (("lora", "dora"), "No better than that: all cells."),
        (("dora",), "No better than that: dora."),
        ((), None),
    ],
)
def test_what_is_no_better_than_one_class_is_told(poor, said, writer):
    """Of two labels half of the examples each: answers by the pattern 0011 are right about half of them."""
    w = writer()
    for record in w.grid(ranks=(8,), seeds=range(3)):
        path = w.root / record["run_id"] / "predictions.parquet"
        rows = range(len(pq.read_table(path)))
        labels = [str(i % 2) for i in rows]
        given = [str(i // 2 % 2) if record["spec"]["variant"] in poor else labels[i] for i in rows]
        score = [float(a == b) for a, b in zip(labels, given, strict=True)]
        columns = {"id": [f"t{i}" for i in rows], "label": labels, "prediction": given, "score": score}
        pq.write_table(pa.table(columns), path)
        record["metrics"]["test/accuracy"] = sum(score) / len(score)
        path.with_name("record.json").write_text(json.dumps(record))
    study = load.read(w.root)
    found = [text for text in limits.limits(study, cells.cells(study), None) if "most frequent class" in text]
    assert len(found) == (said is not None)
    assert all("right on 50.0% of the test examples" in text and said in text for text in found)


def answered(w, record, answers):
    """Give a run these answers, alternately, to examples of two labels; returns its record's text."""
    path = w.root / record["run_id"] / "predictions.parquet"
    table = pq.read_table(path, columns=["id", "score", "loss"])
    rows = range(len(table))
    labels = [str(i % 2) for i in rows]
    given = [answers[i % len(answers)] for i in rows]
    pq.write_table(table.append_column("label", [labels]).append_column("prediction", [given]), path)
    record["metrics"]["test/matthews"] = 0.0
    path.with_name("record.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("constant", "said", "judged"),
    [
        (("lora", "dora"), "All 8 runs behind these results give the same answer to every example", False),
        (("dora",), "4 of the 8 runs behind these results give the same answer to every example", True),
        ((), None, True),
    ],
)
def test_runs_that_answer_every_example_alike_are_told_and_give_no_verdict(constant, said, judged, writer):
    """Those that answer now this, now that, by chance, have a correlation of 0 too and are no such runs."""
    w = writer()
    for record in w.grid(ranks=(8,), seeds=range(4)):
        answered(w, record, "1" if record["spec"]["variant"] in constant else "0011")
    study = load.read(w.root)
    table = cells.cells(study)
    found = verdicts.verdicts(study, table)
    texts = [text for text in limits.limits(study, table, found) if "same answer" in text]
    assert [text.split(": ")[0] for text in texts] == ([said] if said else [])
    [row] = found.overall.to_dict("records")
    assert (row["verdict"] != "") == judged
    assert judged or row["why"].startswith("the runs of both sides give one answer to all examples")
    lines = [item for item in audit.audit(study, table, found, files=False) if "one answer" in item.question]
    assert [item.met for item in lines] == [not constant]


def test_ranks_without_common_seeds_do_not_hide_that_nothing_was_learned(writer):
    w = writer()
    for seed in range(3):
        for variant in ("lora", "dora"):
            answered(w, w.run(w.spec(variant, 4, seed)), "1")
        answered(w, w.run(w.spec("lora", 8, seed)), "1")
        w.run(w.spec("dora", 8, seed), status="diverged")
    study = load.read(w.root)
    found = verdicts.verdicts(study, cells.cells(study))
    assert {row["r"]: "nothing was learned" in row["why"] for row in found.table.to_dict("records")} == {
        4: True, 8: False, "all": True
    }  # fmt: skip


def test_a_dataset_on_which_nothing_was_learned_has_no_part_in_the_table_across_datasets(writer):
    w = writer()
    for dataset in ("first", "second", "third"):
        for record in w.grid(ranks=(8,), seeds=range(4), dataset=dataset):
            answered(w, record, "1" if dataset == "second" else "0011")
    study = load.read(w.root)
    [row] = datasets.table(verdicts.verdicts(study, cells.cells(study)).overall)
    assert row["settings"] == 2
