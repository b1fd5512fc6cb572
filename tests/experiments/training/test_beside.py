"""What a run is measured on beside its own task: several test sets, forgetting, subsets of validation."""

import csv
import json

import pyarrow.parquet as pq
import pytest

from experiments import data
from experiments.errors import UserError
from experiments.record import RunFolder
from experiments.spec import RunSpec, Train
from experiments.tracking import make
from experiments.training.execute import execute
from experiments.training.run_state import Run

AXES = {
    "delta": "lora", "scaling": "alpha_over_r", "storage": "fp32", "grouping": "uniform",
    "controller": "none",
}  # fmt: skip


class Quiet:
    """A display that shows nothing."""

    def run_started(self, run_id, steps, done=0): ...
    def step(self, run_id, step, loss): ...


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """Datasets of the test's own: sums to learn, two tests of them, and plain text."""
    folder = tmp_path / "conf" / "dataset"
    folder.mkdir(parents=True)
    for name, count in (("sums", 120), ("small", 40), ("large", 90)):
        rows = [{"q": f"{name} {i}+1", "a": f" {i + 1}"} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        yaml = {
            "name": name, "reader": "hub", "kind": "completion", "prompt": "{q}", "completion": "{a}",
            "path": str(tmp_path / f"{name}.jsonl"), "metrics": ["exact_match"], "answer": "number",
            "max_new_tokens": 3, "max_length": 32,
        }  # fmt: skip
        (folder / f"{name}.yaml").write_text(json.dumps(yaml))
    texts = [[f"a text of {i} words"] for i in range(60)]
    with (tmp_path / "plain.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *texts])
    yaml = {
        "name": "plain",
        "reader": "hub",
        "kind": "language_modeling",
        "path": str(tmp_path / "plain.csv"),
    }
    (folder / "plain.yaml").write_text(json.dumps({**yaml, "max_length": 24}))
    monkeypatch.setattr("experiments.config.groups.CONF", tmp_path / "conf")
    return tmp_path


@pytest.fixture
def run_of(conf, tiny_gpt2):
    def made(name, *, train=None, **options):
        content = json.loads((conf / "conf" / "dataset" / "sums.yaml").read_text())
        content.pop("name")
        spec = RunSpec(
            study="toy", variant="lora", method="adapters", r=2, alpha=4.0, targets="qv", axes=AXES,
            options={}, model="hf", model_options={"path": str(tiny_gpt2)}, dataset="sums",
            dataset_options={**content, **options}, lr=0.02, seed=0,
            train=Train(**{"steps": 4, "batch_size": 4, "head_lr": 0.02, "evaluations": 1, **(train or {})}),
        )  # fmt: skip
        return Run(spec, name, RunFolder(conf / name), make({"name": "none"}))

    return made


def test_several_test_sets_count_the_same_and_keep_their_own_scores(run_of):
    run = run_of("run", test=("small", "large"), metric="loss")
    [record] = execute([run], display=Quiet())
    found = record["metrics"]
    assert found["test/loss"] == pytest.approx((found["test/small/loss"] + found["test/large/loss"]) / 2)
    assert found["test/small/loss"] != found["test/large/loss"]
    table = pq.read_table(run.folder.predictions).to_pydict()
    sets = [one.split("/")[0] for one in table["id"]]
    assert set(sets) == {"small", "large"} and sets.count("small") < sets.count("large")
    assert sum(table["score"]) / len(sets) == pytest.approx(found["test/loss"])
    assert record["task"] == {
        "kind": "completion", "metrics": ["loss", "exact_match"], "answer": "number", "max_new_tokens": 3,
        "tests": ["small", "large"],
    }  # fmt: skip
    assert record["data"]["test_rows"] == len(sets)


def test_what_was_forgotten_is_measured_before_and_after(run_of):
    [record] = execute([run_of("run", also=("plain",))], display=Quiet())
    before, after = (record["metrics"][f"{when}/plain/perplexity"] for when in ("before", "after"))
    assert before > 1 and after > 1 and before != after
    [still] = execute([run_of("still", also=("plain",), train={"steps": 1, "warmup": 0.0})], display=Quiet())
    assert still["metrics"]["before/plain/perplexity"] == before, "all runs begin on the same base"


def test_the_data_of_the_others_is_part_of_what_a_run_is(run_of, conf):
    plain, tested = run_of("a").spec, run_of("b", test=("small",)).spec
    first = data.fingerprint(tested)
    assert first != data.fingerprint(plain)
    with (conf / "small.jsonl").open("a") as file:
        file.write(json.dumps({"q": "more", "a": " 1"}) + "\n")
    data._fingerprint.cache_clear()
    assert data.fingerprint(tested) != first


def test_another_kind_of_head_cannot_answer(run_of, conf, toy_csv):
    content = {"name": "toy", "reader": "hub", "path": str(toy_csv), "max_length": 16}
    (conf / "conf" / "dataset" / "toy.yaml").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"dataset.also=toy is a task of classification"):
        execute([run_of("run", also=("toy",))], display=Quiet())
    with pytest.raises(UserError, match=r"dataset.test=smal is no dataset. Did you mean 'small'"):
        execute([run_of("other", test=("smal",))], display=Quiet())


def test_validation_reads_so_many_rows_and_the_test_all(run_of, monkeypatch):
    seen, read = {}, []
    head = data.Encoded.first
    monkeypatch.setattr(data.Encoded, "first", lambda self, count: read.append(count) or head(self, count))
    for name, rows in (("all", None), ("some", 5)):
        run = run_of(name, train={"eval_rows": rows}, metric="loss")
        [record] = execute([run], display=Quiet())
        seen[name] = record["metrics"]
    assert read == [5]
    assert seen["all"]["test/loss"] == seen["some"]["test/loss"]
    assert seen["all"]["validation/loss"] != seen["some"]["validation/loss"]
