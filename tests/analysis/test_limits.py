"""What a study of few seeds is said not to show."""

import json

import pytest

from analysis import cells, limits, load, verdicts


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
    ("constant", "said", "judged"),
    [
        (("lora", "dora"), "All 8 runs behind these results give one answer to every example", False),
        (("dora",), "4 of the 8 runs behind these results give one answer to every example", True),
        ((), None, True),
    ],
)
def test_runs_that_answer_every_example_alike_are_told_and_give_no_verdict(constant, said, judged, writer):
    w = writer()
    for record in w.grid(ranks=(8,), seeds=range(4)):
        record["metrics"]["test/matthews"] = 0.0 if record["spec"]["variant"] in constant else 0.3
        (w.root / record["run_id"] / "record.json").write_text(json.dumps(record))
    study = load.read(w.root)
    table = cells.cells(study)
    found = verdicts.verdicts(study, table)
    texts = [text for text in limits.limits(study, table, found) if "one answer" in text]
    assert [text.split(" (")[0] for text in texts] == ([said] if said else [])
    [row] = found.overall.to_dict("records")
    assert (row["verdict"] != "") == judged
    assert judged or row["why"].startswith("every run of both gives one answer to all examples")
