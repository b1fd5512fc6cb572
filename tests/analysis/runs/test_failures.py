"""Runs without a result, and results of two kinds: each counts where it belongs."""

import json

import pytest

from analysis import report
from analysis.runs import cells, load
from experiments.record import RunFolder


def fail(w, spec, **more):
    """A failure exactly as a worker records it, which knows neither metric nor data; returns its record."""
    run_id = w.run(spec, status="failed")["run_id"]
    folder = RunFolder(w.root / run_id)
    folder.record.unlink()
    (folder.path / "predictions.parquet").unlink(missing_ok=True)
    record = {"run_id": run_id, "study": spec["study"], "status": "failed", "spec": spec, "env": w._env()}
    error = {"kind": "RuntimeError", "message": "no", "traceback": "...", "repeat": folder.repeat}
    folder.write_record(record | {"deviations": [], "error": error} | more, first=True)
    return json.loads(folder.record.read_text())


@pytest.mark.parametrize("env", [{}, {"device": "NVIDIA H200"}, {"code_sha256": "beef" * 16}])
def test_failures_without_a_metric_count_against_the_variant(writer, judged, env):
    w = writer(n_examples=600)
    w.grid(("lora", "dora"), (8,), range(5), effects={"dora": 0.10})
    assert judged(w)[0]["dora", 8]["verdict"] == "better"
    for seed in range(5, 9):
        record = fail(w, w.spec("dora", 8, seed), env=w._env() | env)
        assert "primary" not in record and "data" not in record
    row = judged(w)[0]["dora", 8]
    assert (row["failed"], row["n_seeds"], row["verdict"]) == (4, 5, "inconclusive")


def test_a_cell_whose_runs_all_failed_stands_beside_its_peers(writer):
    w = writer()
    w.grid(("lora",), (8,), range(3))
    for seed in range(3):
        fail(w, w.spec("dora", 8, seed))
    table = cells.cells(load.read(w.root)).set_index("variant")
    assert tuple(table.loc["dora", ["n", "failed"]]) == (0, 3)
    same = ["peer_key", "stack", "metric", "goal", "split"]
    assert list(table.loc["dora", same]) == list(table.loc["lora", same])


def test_failures_alone_are_reported(writer):
    w = writer()
    fail(w, w.spec("dora", 8, 0))
    assert (
        "No run has been completed"
        in (report.build(w.root, images_too=False).parent / "report.md").read_text()
    )


def test_a_failed_tuning_run_is_no_failure_of_what_is_compared(writer, judged):
    w = writer()
    w.grid(("lora", "dora"), (8,), range(3))
    fail(w, w.spec("dora", 8, 100), phase="tune")
    assert judged(w)[0]["dora", 8]["failed"] == 0


def untested(w, *specs):
    """Runs whose results are on validation alone."""
    for spec in specs:
        w.run(spec, metrics={"validation/accuracy": 0.8}, predictions=False)


def test_validation_is_never_compared_with_test(writer, judged):
    w = writer()
    w.grid(("lora",), (8,), range(5))
    untested(w, *[w.spec("dora", 8, seed) for seed in range(5)])
    rows, found = judged(w)
    assert rows == {} and "results on test alone" in found.unmatched[0].why


def test_a_cell_of_both_is_two_cells_and_named(writer):
    w = writer()
    w.grid(("lora",), (8,), range(3))
    untested(w, *[w.spec("lora", 8, seed) for seed in (3, 4)])
    study = load.read(w.root)
    table = cells.cells(study)
    assert sorted(zip(table["split"], table["n"], strict=True)) == [("test", 3), ("validation", 2)]
    assert any("never averaged" in problem.what for problem in study.problems)


def tried(w, lr, accuracies, **options):
    """Plain runs at one rate, a seed for each accuracy on validation; None diverges."""
    for seed, accuracy in enumerate(accuracies):
        spec = w.spec("lora", 8, seed, lr=lr)
        if accuracy is None:
            w.run(spec, status="diverged", **options)
        else:
            metrics = {"validation/accuracy": accuracy, "test/accuracy": accuracy}
            w.run(spec, metrics=metrics, predictions=False, **options)


@pytest.mark.parametrize("other", [[0.9, 0.9, 0.9, None, None, None], [0.9]])
def test_survivors_and_one_lucky_seed_choose_no_rate(writer, other):
    w = writer()
    tried(w, 0.001, [0.7] * 6)
    tried(w, 0.01, other)
    table = cells.cells(load.read(w.root)).set_index("lr")
    assert table["final"].to_dict() == {0.001: True, 0.01: False}


def test_tuning_runs_that_diverged_recommend_nothing(writer):
    w = writer()
    for lr, accuracies in ((0.001, [0.7, 0.7]), (0.01, [0.9, None])):
        tried(w, lr, accuracies, phase="tune")
        w.run(w.spec("lora", 8, 7, lr=lr), phase="confirm")
    table = cells.cells(load.read(w.root))
    assert table.loc[table["final"], "lr"].tolist() == [0.001]
