"""Verdicts: right where the truth is known, silent where nothing can be said."""

import csv
import json

import numpy as np
import pytest

from analysis import cells, load, next_steps, report, verdicts
from experiments.errors import UserError

COLUMNS = (
    "dataset,model,metric,targets,alpha,r,cell_key,variant,baseline,n_seeds,difference,ci_low,ci_high,p,p_adjusted,"
    "margin,smallest_detectable,verdict"
)


@pytest.fixture
def judged():
    """A function that reads a study and judges it: rows of the comparisons by (variant, r)."""

    def judge(w, *, pool=False, **options):
        study = load.read(w.root, pool=pool)
        found = verdicts.verdicts(study, cells.cells(study), **options)
        return {(row["variant"], row["r"]): row for _, row in found.table.iterrows()}, found

    return judge


def test_the_table_of_verdicts_has_the_documented_columns(writer):
    w = writer(n_examples=50)
    w.grid(seeds=range(3), ranks=(4,))
    path = report.build(w.root, images_too=False).parent / "verdicts.csv"
    assert path.read_text().splitlines()[0] == COLUMNS
    with open(path) as file:
        row = next(csv.DictReader(file))
    assert (row["variant"], row["baseline"], row["r"], row["n_seeds"], row["margin"]) == (
        "dora",
        "lora",
        "4",
        "3",
        "0.01",
    )


def test_strong_effects_are_found_with_the_right_sign(writer, judged):
    w = writer(n_examples=600)
    w.grid(("lora", "dora", "rslora"), (8,), range(5), effects={"dora": 0.10, "rslora": -0.10})
    rows, _ = judged(w)
    assert rows["dora", 8]["verdict"] == "better" and rows["rslora", 8]["verdict"] == "worse"
    assert rows["dora", 8]["ci_low"] < 0.10 < rows["dora", 8]["ci_high"]


def test_less_is_better_where_the_metric_says_so(writer, judged):
    w = writer()
    for seed in range(5):
        for variant, loss in (("lora", 1.0), ("dora", 0.8)):
            metrics = {"test/loss": loss + 0.01 * seed * (variant == "lora"), "validation/loss": loss}
            w.run(
                w.spec(variant, 8, seed),
                metrics=metrics,
                primary={"metric": "loss", "goal": "min"},
                predictions=False,
            )
    rows, _ = judged(w)
    assert rows["dora", 8]["difference"] > 0 and rows["dora", 8]["verdict"] == "better"


def test_equal_runs_are_equivalent(writer, judged):
    w = writer(n_examples=4000, noise=(1.0, 0.0, 0.0, 0.1))
    w.grid(("lora", "dora"), (8,), range(5))
    assert judged(w, margin=0.02)[0]["dora", 8]["verdict"] == "equivalent"


def test_noise_alone_rarely_makes_a_verdict(writer, judged):
    wrong = 0
    for k in range(12):
        w = writer(f"null{k}", n_examples=120, seed=k)
        w.grid(("lora", "dora", "rslora", "loraplus"), (8,), range(3))
        wrong += any(row["verdict"] in ("better", "worse") for row in judged(w)[0].values())
    assert wrong <= 2


def test_two_seeds_make_no_verdict_but_a_command(writer, judged):
    w = writer()
    w.grid(seeds=(0, 1))
    rows, found = judged(w)
    assert {row["verdict"] for row in rows.values()} == {""}
    assert np.isnan(rows["dora", 8]["p"]) and np.isnan(rows["dora", 8]["ci_low"])
    study = load.read(w.root)
    commands = next_steps.commands(study, cells.cells(study), found)
    assert len(commands) == 2
    assert all("seed=0,1,2" in c and "r=4,8,16" in c and c.startswith("python run.py -m ") for c in commands)


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


def test_a_variant_that_fails_more_often_is_never_better(writer, judged):
    w = writer(n_examples=600)
    w.grid(("lora", "dora"), (8,), range(5), effects={"dora": 0.10})
    assert judged(w)[0]["dora", 8]["verdict"] == "better"
    w.run(w.spec("dora", 8, 5), status="diverged")
    w.run(w.spec("lora", 8, 5))
    row, found = judged(w)[0]["dora", 8], report.build(w.root, images_too=False).parent
    assert row["verdict"] == "inconclusive" and row["p_adjusted"] < 0.05
    assert "so it is not called better" in (found / "report.md").read_text()


def test_failures_of_the_baseline_do_not_count_against_the_variant(writer, judged):
    w = writer(n_examples=600)
    w.grid(("lora", "dora"), (8,), range(5), effects={"dora": 0.10})
    w.run(w.spec("lora", 8, 5), status="diverged")
    assert judged(w)[0]["dora", 8]["verdict"] == "better"


def test_the_family_grows_with_the_variants(writer, judged):
    w = writer()
    w.grid(("lora", "dora", "rslora", "loraplus"), (8,), range(4))
    rows, _ = judged(w)
    smallest = min(rows.values(), key=lambda row: row["p"])
    assert smallest["p_adjusted"] == pytest.approx(min(1, 3 * smallest["p"]))


def test_without_scores_only_seeds_are_noise_and_it_is_said(writer, judged):
    w = writer()
    for variant in ("lora", "dora"):
        for seed in range(4):
            w.run(w.spec(variant, 8, seed), predictions=False)
    assert judged(w)[0]["dora", 8]["n_examples"] == 0
    text = (report.build(w.root, images_too=False).parent / "report.md").read_text()
    assert "no usable per-example scores" in text and "test examples not counted as noise" in text


def test_a_predictions_file_that_contradicts_its_record_is_not_used(writer, judged):
    w = writer()
    records = w.grid(seeds=range(3), ranks=(8,))
    path = w.root / records[0]["run_id"] / "record.json"
    content = json.loads(path.read_text())
    content["metrics"]["test/accuracy"] += 0.1
    path.write_text(json.dumps(content))
    rows, found = judged(w)
    assert rows["dora", 8]["n_examples"] == 0
    assert "the record says" in found.problems[0].what


def test_a_changed_predictions_file_is_not_used(writer, judged):
    w = writer()
    w.grid(seeds=range(3), ranks=(8,))
    w.run(w.spec("dora", 8, 0), files={"predictions.parquet": "0" * 64})
    assert "checksum" in judged(w)[1].problems[0].what


def test_examples_in_another_order_are_the_same_examples(writer, judged):
    import pyarrow.parquet as pq

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


def test_seeds_that_change_nothing_are_no_evidence(writer, judged):
    w = writer()
    for variant, accuracy in (("lora", 0.70), ("dora", 0.75)):
        for seed in range(5):
            w.run(w.spec(variant, 8, seed), metrics={"test/accuracy": accuracy}, predictions=False)
    row = judged(w)[0]["dora", 8]
    assert row["verdict"] == "" and "do the seeds work" in row["why"]


def test_a_method_without_rank_meets_every_rank_of_the_baseline(writer, judged):
    w = writer()
    w.grid(("lora",), (4, 8), range(3))
    w.grid(("full",), (0,), range(3))
    rows, _ = judged(w)
    assert set(rows) == {("full", 4.0), ("full", 8.0), ("full", "all")}


@pytest.mark.parametrize("variants", [("lora",), ("dora",), ("dora", "rslora")])
def test_without_a_comparison_the_report_says_why(writer, variants):
    w = writer()
    w.grid(variants, (4, 8), range(3))
    folder = report.build(w.root, images_too=False).parent
    assert "compare" in (folder / "report.md").read_text().splitlines()[2]
    assert (folder / "verdicts.csv").read_text().strip() == COLUMNS


def test_a_baseline_that_is_not_there_is_an_error_with_a_suggestion(writer, judged):
    w = writer()
    w.grid(ranks=(8,))
    with pytest.raises(UserError, match="Did you mean 'dora'"):
        judged(w, baseline="dorra")


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
