"""Verdicts: right where the truth is known, silent where nothing can be said."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score

from analysis import audit, report
from analysis.runs import cells, load
from analysis.text import next_steps
from experiments.errors import UserError

COLUMNS = (
    "dataset,model,metric,targets,alpha,r,cell_key,variant,baseline,n_seeds,difference,ci_low,ci_high,p,p_adjusted,"
    "margin,smallest_detectable,verdict"
)


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
            change = 0.01 * seed if variant == "lora" else 0.001 * seed
            metrics = {"test/loss": loss + change, "validation/loss": loss}
            w.run(
                w.spec(variant, 8, seed),
                metrics=metrics,
                primary={"metric": "loss", "goal": "min"},
                predictions="flat",
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


def test_a_variant_that_fails_more_often_is_never_better(writer, judged):
    w = writer(n_examples=600)
    w.grid(("lora", "dora"), (8,), range(5), effects={"dora": 0.10})
    assert judged(w)[0]["dora", 8]["verdict"] == "better"
    w.run(w.spec("dora", 8, 5), status="diverged")
    w.run(w.spec("lora", 8, 5))
    row, found = judged(w)[0]["dora", 8], report.build(w.root, images_too=False).parent
    assert row["verdict"] == "inconclusive" and row["p_adjusted"] < 0.05
    assert "is not called better, since more of its runs failed" in (found / "report.md").read_text()


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
            metrics = {"test/accuracy": 0.6 + 0.2 * (variant == "dora") + 0.001 * (seed % 2)}
            metrics["test/accuracy"] += 0.001 * (seed == 0 and variant == "dora")
            w.run(w.spec(variant, 8, seed), metrics=metrics, predictions=False)
    row = judged(w)[0]["dora", 8]
    assert row["n_examples"] == 0 and row["verdict"] == "inconclusive"
    assert row["p"] > 0 and np.isnan(row["smallest_detectable"])
    text = (report.build(w.root, images_too=False).parent / "report.md").read_text()
    assert (
        "shows no significant difference from lora" in text
        and "the runs left no usable scores by example" in text
    )
    assert "no usable per-example scores" in text and "test examples not counted as noise" in text


def test_equivalence_has_a_family_of_its_own(writer, judged):
    w = writer(n_examples=400)
    w.grid(("lora", "dora", "rslora", "loraplus"), (8,), range(4), effects={"rslora": 0.2})
    _, found = judged(w, margin=0.05)
    table = found.table.sort_values("p_tost")
    p = table["p_tost"].to_numpy()
    assert len(p) == 3
    holm = np.minimum(1, np.maximum.accumulate(p * [3, 2, 1]))
    assert list(table["p_equivalent"]) == pytest.approx(list(holm))
    assert list(table["p_tost"]) != pytest.approx(list(table["p"]))


def test_seeds_that_change_nothing_are_no_evidence(writer, judged):
    w = writer()
    for variant, accuracy in (("lora", 0.70), ("dora", 0.75)):
        for seed in range(5):
            w.run(w.spec(variant, 8, seed), metrics={"test/accuracy": accuracy}, predictions=False)
    row = judged(w)[0]["dora", 8]
    assert row["verdict"] == "" and "do the seeds work" in row["why"]


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


def test_another_rate_of_the_head_is_said_with_the_verdict(writer, judged):
    w = writer(n_examples=600)
    w.grid(("lora",), (8,), range(5))
    for seed in range(5):
        w.run(w.spec("dora", 8, seed, train__head_lr=0.05), 0.8)
    assert judged(w)[0]["dora", 8]["verdict"] == "better"
    text = (report.build(w.root, images_too=False).parent / "report.md").read_text()
    assert text.count("he head was trained at 0.05 for dora, at 0.005 for lora") == 2  # sentence and table


def test_metrics_that_are_no_means_have_example_noise_too(writer, judged):
    w = writer(n_examples=601)
    for variant, accuracy in (("lora", 0.6), ("dora", 0.8)):
        for seed in range(3):
            record = w.run(w.spec(variant, 8, seed), accuracy)
            folder, rng = w.root / record["run_id"], np.random.default_rng(seed)
            table = pq.read_table(folder / "predictions.parquet")
            right, truth = table["score"].to_numpy() == 1, rng.integers(0, 3, 601)
            guess = np.where(right, truth, (truth + 1) % 3)
            columns = {"id": table["id"], "label": truth.astype(str), "prediction": guess.astype(str)}
            pq.write_table(pa.table(columns), folder / "predictions.parquet")
            value = f1_score(truth, guess, average="macro")
            metrics = {"test/macro_f1": value, "validation/macro_f1": value}
            primary = {"metric": "macro_f1", "goal": "max"}
            (folder / "record.json").write_text(json.dumps(record | {"metrics": metrics, "primary": primary}))
    row = judged(w)[0]["dora", 8]
    assert row["n_examples"] == 601 and row["verdict"] == "better"
    assert row["ci_low"] < 0.2 < row["ci_high"]


@pytest.mark.parametrize("margin", ["-1", "nan", "none"])
def test_a_margin_that_is_none_is_refused_by_every_command(margin, capsys):
    for command in (audit, report):
        with pytest.raises(SystemExit, match="2"):
            command.main(["runs/demo", "--margin", margin])
        assert "is no positive number" in capsys.readouterr().err


def test_the_checklist_pools_stacks_when_told_to(writer, capsys):
    w = writer()
    for variant, code in (("lora", "beef" * 16), ("dora", "c0de" * 16)):
        for seed in range(3):
            w.run(w.spec(variant, 8, seed), env=w._env() | {"code_sha256": code})
    assert audit.main([str(w.root)]) == 0 and "there is no comparison" in capsys.readouterr().out
    assert audit.main([str(w.root), "--pool"]) == 0
    assert "there is no comparison" not in capsys.readouterr().out
