"""Which runs are compared with which, and which evidence counts."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from analysis import report
from analysis.runs import load


def test_only_seeds_in_common_are_compared(writer, judged):
    w = writer()
    w.grid(("lora",), (8,), (0, 1, 2, 3))
    w.grid(("dora",), (8,), (2, 3, 4, 5))
    row = judged(w)[0]["dora", 8]
    assert row["n_seeds"] == 2 and row["verdict"] == "" and row["seeds"] == (2, 3)


def test_over_ranks_a_seed_counts_once(writer, judged):
    w = writer()
    w.grid(seeds=range(4))
    rows, _ = judged(w)
    row = rows["dora", "all"]
    assert row["n_seeds"] == 4 and row["overall"] and not rows["dora", 8]["overall"]
    assert row["difference"] == pytest.approx(np.mean([rows["dora", r]["difference"] for r in (4, 8, 16)]))


def test_a_predictions_file_that_contradicts_its_record_is_not_used(writer, judged):
    w = writer()
    records = w.grid(seeds=range(3), ranks=(8,))
    path = w.root / records[0]["run_id"] / "record.json"
    content = json.loads(path.read_text())
    content["metrics"]["test/accuracy"] += 0.1
    path.write_text(json.dumps(content))
    rows, _ = judged(w)
    assert rows["dora", 8]["seeds"] == (1, 2)
    assert "the record says" in load.read(w.root).problems[0].what


def test_a_metric_in_percent_beside_predictions_in_shares_is_not_used(writer, judged):
    w = writer()
    w.grid(seeds=range(3), ranks=(8,))
    record = w.run(w.spec("dora", 8, 3), metrics={"test/accuracy": 70, "validation/accuracy": 0.7})
    study = load.read(w.root)
    assert [p.run for p in study.problems] == [record["run_id"]]
    assert "the record says 70" in study.problems[0].what and record["run_id"] not in study.records


def test_a_missing_predictions_file_costs_its_seed_and_is_named(writer, judged):
    w = writer()
    records = w.grid(seeds=range(4), ranks=(8,))
    lost = w.root / records[0]["run_id"] / "predictions.parquet"
    files = {"predictions.parquet": hashlib.sha256(lost.read_bytes()).hexdigest()}
    (lost.parent / "record.json").write_text(json.dumps(records[0] | {"files": files}))
    lost.unlink()
    rows, found = judged(w)
    row = rows["dora", 8]
    assert (row["seeds"], row["left_out"], row["n_examples"]) == ((1, 2, 3), (0,), 200)
    assert "is missing, though the record lists it" in found.problems[0].what
    text = (report.build(w.root, images_too=False).parent / "report.md").read_text()
    assert "left out, without scores by example: seed 0" in text


def test_a_changed_predictions_file_is_not_used(writer, judged):
    w = writer()
    w.grid(seeds=range(3), ranks=(8,))
    w.run(w.spec("dora", 8, 0), files={"predictions.parquet": "0" * 64})
    assert "checksum" in judged(w)[1].problems[0].what


def test_examples_in_another_order_are_the_same_examples(writer, judged):
    w = writer()
    records = w.grid(seeds=range(3), ranks=(8,))
    before = judged(w)[0]["dora", 8]
    path = w.root / records[0]["run_id"] / "predictions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), path)
    after = judged(w)[0]["dora", 8]
    assert (after["n_examples"], after["p"]) == (200, pytest.approx(before["p"]))


def test_other_targets_alpha_or_training_are_never_compared(writer, judged):
    w = writer()
    w.grid(("lora",), (8,), range(3))
    for changes in ({"targets": "all"}, {"alpha": 32.0}, {"train__steps": 300}):
        for seed in range(3):
            w.run(w.spec("dora", 8, seed, **changes))
    rows, found = judged(w)
    assert rows == {} and len(found.unmatched) == 3
    assert any("with another alpha" in left.why for left in found.unmatched)


def test_a_method_without_alpha_meets_the_baseline_at_its_rank(writer, judged):
    w = writer()
    w.grid(("lora",), (4, 8), range(3))
    for seed in range(3):
        w.run(w.spec("dora", 8, seed, alpha=None))
    rows, found = judged(w)
    assert set(rows) == {("dora", 8)} and not found.unmatched


def test_other_code_or_data_is_not_pooled_unless_told_so(writer, judged):
    w = writer()
    for variant in ("lora", "dora"):
        for seed in range(6):
            env = w._env() | ({"code_sha256": "beef" * 16} if seed > 2 else {})
            w.run(w.spec(variant, 8, seed), env=env)
    rows, found = judged(w)
    assert sorted(found.table["n_seeds"]) == [3, 3]
    assert found.table["cell_key"].nunique() == 2 and found.differing == ["code"]
    assert "differ in code" in (report.build(w.root, images_too=False).parent / "report.md").read_text()
    rows, _ = judged(w, pool=True)
    assert rows["dora", 8]["n_seeds"] == 6


def test_a_repeated_seed_is_no_new_evidence(writer, judged):
    w = writer()
    w.grid(seeds=range(3), ranks=(8,))
    (w.root / "again").mkdir()
    record = json.loads(
        (w.root / next(p.name for p in w.root.glob("dora-r8-*-s0-*")) / "record.json").read_text()
    )
    (w.root / "again" / "record.json").write_text(json.dumps(record | {"run_id": "again"}))
    assert judged(w)[0]["dora", 8]["n_seeds"] == 3
    assert any("with the same seed" in p.what for p in load.read(w.root).problems)


def test_a_method_without_rank_meets_every_rank_of_the_baseline(writer, judged):
    w = writer()
    w.grid(("lora",), (4, 8), range(3))
    w.grid(("full",), (0,), range(3))
    rows, _ = judged(w)
    assert set(rows) == {("full", 4.0), ("full", 8.0), ("full", "all")}


def test_any_variant_can_be_the_baseline(writer, judged):
    w = writer()
    w.grid(ranks=(8,), seeds=range(3))
    there, back = judged(w)[0]["dora", 8], judged(w, baseline="dora")[0]["lora", 8]
    assert there["difference"] == pytest.approx(-back["difference"]) and there["p"] == pytest.approx(
        back["p"]
    )


def test_tuning_runs_choose_the_rate_and_enter_no_verdict(writer, judged):
    w = writer()
    for variant in ("lora", "dora"):
        for lr, accuracy in ((0.001, 0.6), (0.01, 0.7)):
            metrics = {"validation/accuracy": accuracy, "test/accuracy": accuracy}
            w.run(w.spec(variant, 8, 100, lr=lr), phase="tune", metrics=metrics)
        for seed in range(3):
            w.run(w.spec(variant, 8, seed, lr=0.01), phase="confirm")
    row = judged(w)[0]["dora", 8]
    assert row["n_seeds"] == 3 and row["seeds"] == (0, 1, 2)


def test_matched_ranks_are_compared_with_the_rank_they_were_matched_with(writer, judged):
    w = writer()
    w.grid(("lora",), (4, 8), range(3))
    for own, reference in ((3, 4), (7, 8)):
        for seed in range(3):
            w.run(w.spec("dora", own, seed, matched=reference))
    rows, found = judged(w)
    assert found.unmatched == []
    name = "dora, matched"
    assert set(rows) == {(name, 4.0), (name, 8.0), (name, "all")}
    assert (rows[name, 4.0]["variant_r"], rows[name, 8.0]["variant_r"]) == (3.0, 7.0)
    assert rows[name, "all"]["n_seeds"] == 3


def test_equal_ranks_and_matched_ranks_are_two_comparisons(writer, judged):
    w = writer()
    w.grid(("lora", "dora"), (4, 8), range(3))
    for own, reference in ((3, 4), (7, 8)):
        for seed in range(3):
            w.run(w.spec("dora", own, seed, matched=reference), 0.9)
    rows, _ = judged(w)
    assert rows["dora", 4.0]["variant_r"] == 4.0 and rows["dora, matched", 4.0]["variant_r"] == 3.0
    assert rows["dora, matched", "all"]["difference"] > rows["dora", "all"]["difference"] + 0.05


def test_a_matched_run_is_of_the_cell_that_the_rank_names(writer, judged):
    """Two of its seeds were there before ranks were matched; all three are compared."""
    w = writer()
    w.grid(("lora",), (8,), range(3))
    for seed in range(3):
        w.run(w.spec("dora", 7, seed, **({"matched": 8} if seed == 2 else {})))
    rows, _ = judged(w)
    assert rows["dora, matched", 8.0]["n_seeds"] == 3


def test_matched_variants_are_compared_with_each_other(writer, judged):
    w = writer()
    for variant, own in (("dora", 7), ("adalora", 5)):
        for seed in range(3):
            w.run(w.spec(variant, own, seed, matched=8))
    rows, _ = judged(w, baseline="dora")
    assert set(rows) == {("adalora, matched", 8.0)}
