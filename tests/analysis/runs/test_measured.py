"""A study compared by another metric than its primary one."""

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import report
from analysis.runs.load import read
from experiments.errors import UserError

METRIC = "lm_eval/arc/acc"


@pytest.fixture
def study(writer):
    """Runs of two variants, of which a task of the harness says the opposite of the primary metric."""
    w = writer()
    for seed in range(3):
        for variant, own, other in (("lora", 0.6, 0.8), ("dora", 0.8, 0.55)):
            hits = w.scores(w.spec(variant, seed=seed, dataset="arc"), other)
            told = {METRIC: float(hits.mean()), "lm_eval/arc/ppl": 3.0 + own, "after/wiki/perplexity": own}
            spec = w.spec(variant, seed=seed)
            record = w.run(spec, own, lm_eval={"arc": {"goals": {METRIC: "max", "lm_eval/arc/ppl": "min"}}})
            folder = w.root / record["run_id"]
            (folder / "lm_eval").mkdir()
            file = folder / "lm_eval" / "arc.parquet"
            pq.write_table(pa.table({"id": [str(i) for i in range(len(hits))], "acc": hits}), file)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            w.run(
                spec, own, metrics=record["metrics"] | told, lm_eval=record["lm_eval"],
                files=record["files"] | {"lm_eval/arc.parquet": digest},
            )  # fmt: skip
    return w


def test_the_harness_metric_is_compared_on_its_own_examples(study):
    found = read(study.root, metric=METRIC)
    assert set(found.runs["metric"]) == {METRIC} and set(found.runs["goal"]) == {"max"}
    for run_id, score in found.scores.items():
        assert found.predictions.of(run_id).values.mean() == pytest.approx(score)
        assert score == found.records[run_id]["metrics"][METRIC]
    assert found.predictions.problems == []


def test_a_metric_of_which_less_is_better_says_so(study):
    assert set(read(study.root, metric="lm_eval/arc/ppl").runs["goal"]) == {"min"}
    assert set(read(study.root, metric="after/wiki/perplexity").runs["goal"]) == {"min"}
    assert set(read(study.root, metric="loss").runs["goal"]) == {"min"}


def test_the_verdict_follows_the_metric(study):
    path = report.build(study.root, metric=METRIC, images_too=False)
    assert path.parent.name == "report-lm_eval-arc-acc"
    by_harness = (path.parent / "report.md").read_text()
    by_primary = (report.build(study.root, images_too=False).parent / "report.md").read_text()
    assert "lora is better" not in by_primary and "worse" in by_harness
    assert METRIC in by_harness.replace("\\_", "_")


def test_a_metric_that_no_run_has_is_refused_with_its_neighbours(study):
    with pytest.raises(UserError, match=r"no run has been measured by it\. Did you mean 'lm_eval/arc/acc'\?"):
        read(study.root, metric="lm_eval/arc/acd")


def test_a_run_that_was_not_measured_by_it_is_left_out_and_named(study):
    lacking = study.run(study.spec(seed=9))["run_id"]
    found = read(study.root, metric=METRIC)
    assert lacking not in found.records and any(p.run == lacking for p in found.problems)
