"""Another metric after the fact: judged, chosen and said by it, with its own noise."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score

from analysis import report
from analysis.compare import verdicts
from analysis.runs import cells, load
from experiments.errors import UserError


def test_loss_is_a_metric_of_which_less_is_better(writer):
    w = writer(n_examples=300)
    for seed in range(4):
        for variant, accuracy in (("lora", 0.6), ("dora", 0.8)):
            record = w.run(w.spec(variant, 8, seed), accuracy)
            path = w.root / record["run_id"] / "predictions.parquet"
            loss = pq.read_table(path)["loss"].to_numpy().mean()
            record["metrics"]["test/loss"] = float(loss)
            path.with_name("record.json").write_text(json.dumps(record))
    study = load.read(w.root, metric="loss")
    row = verdicts.verdicts(study, cells.cells(study)).table.iloc[0]
    assert (row["metric"], row["conclusion"]) == ("loss", "better") and row["n_examples"] == 300
    by_accuracy = load.read(w.root)
    same = verdicts.verdicts(by_accuracy, cells.cells(by_accuracy)).table.iloc[0]
    assert row["difference"] == pytest.approx(same["difference"])  # the writer's loss is 1.5 - score


def test_macro_f1_is_taken_apart_by_example_and_the_choice_is_said(writer):
    w, rng = writer(n_examples=90), np.random.default_rng(0)
    for seed in range(4):
        for variant, share in (("lora", 0.5), ("dora", 0.9)):
            record = w.run(w.spec(variant, 8, seed), 0.7)
            label = np.arange(90) % 3
            given = np.where(rng.random(90) < share, label, rng.integers(0, 3, 90))
            columns = {"id": [f"t{i}" for i in range(90)], "label": label.astype(str)}
            columns |= {"prediction": given.astype(str), "score": (label == given).astype(float)}
            path = w.root / record["run_id"] / "predictions.parquet"
            pq.write_table(pa.table(columns), path)
            f1 = f1_score(label, given, average="macro")
            record["metrics"] |= {"test/macro_f1": f1, "validation/macro_f1": f1}
            record["metrics"]["test/accuracy"] = float((label == given).mean())
            path.with_name("record.json").write_text(json.dumps(record))
    page = report.build(w.root, metric="macro_f1", images_too=False)
    text = page.with_name("report.md").read_text().replace("\\", "")
    assert "Test macro F1" in text and "Take dora at rank 8" in text
    assert "The primary metric of the runs is accuracy; they are compared by macro F1" in text
    assert "python -m analysis.report runs/demo --metric macro_f1" in text


def test_a_metric_that_no_run_has_is_refused_with_the_nearest(writer):
    w = writer()
    w.grid(("lora",), (8,), (0,))
    with pytest.raises(UserError, match=r"--metric acuracy: no run .*accuracy.*loss"):
        load.read(w.root, metric="acuracy")


def test_tuning_goes_by_the_same_metric(writer):
    w = writer()
    for lr, loss in ((0.001, 0.9), (0.002, 0.5), (0.004, 0.7)):
        record = w.run(w.spec("lora", 8, 100, lr=lr), 0.9 - 100 * lr, phase="tune")  # accuracy: the first
        record["metrics"]["validation/loss"] = loss
        path = w.root / record["run_id"] / "record.json"
        path.write_text(json.dumps(record))
    for seed in range(3):
        w.run(w.spec("lora", 8, seed, lr=0.001), phase="confirm")
        w.run(w.spec("lora", 8, seed, lr=0.002), phase="confirm")
    for metric, best in ((None, 0.001), ("loss", 0.002)):
        study = load.read(w.root, metric=metric)
        table = cells.cells(study)
        assert list(table.loc[table["final"], "lr"]) == [best]
        assert set(table.loc[table["final"], "rates"]) == {3} and not study.problems
