"""What a run is measured on beside its own task: several test sets, forgetting, subsets of validation."""

import csv
import json

import pyarrow.parquet as pq
import pytest

from experiments import data
from experiments.errors import UserError


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
def run_of(run_of, conf, tiny_gpt2):
    """A run on sums, with options of its dataset: `run_of("name", also=("plain",))`."""
    content = json.loads((conf / "conf" / "dataset" / "sums.yaml").read_text())
    content.pop("name")

    def made(name, *, train=None, **options):
        train = {"steps": 4, "batch_size": 4, "evaluations": 1, **(train or {})}
        given = {"dataset": "sums", "dataset_options": {**content, **options}}
        return run_of(name, train=train, options={}, model_options={"path": str(tiny_gpt2)}, **given)

    return made


def test_several_test_sets_count_the_same_and_keep_their_own_scores(run_of, execute):
    run = run_of("run", test=("small", "large"), metric="loss")
    [record] = execute([run])
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


def test_what_was_forgotten_is_measured_before_and_after(run_of, execute):
    [record] = execute([run_of("run", also=("plain",))])
    before, after = (record["metrics"][f"{when}/plain/perplexity"] for when in ("before", "after"))
    assert before > 1 and after > 1 and before != after
    [still] = execute([run_of("still", also=("plain",), train={"steps": 1, "warmup": 0.0})])
    assert still["metrics"]["before/plain/perplexity"] == before, "all runs begin on the same base"


def test_the_data_of_the_others_is_part_of_what_a_run_is(run_of, conf):
    plain, tested = run_of("a").spec, run_of("b", test=("small",)).spec
    first = data.fingerprint(tested)
    assert first != data.fingerprint(plain)
    with (conf / "small.jsonl").open("a") as file:
        file.write(json.dumps({"q": "more", "a": " 1"}) + "\n")
    data._fingerprint.cache_clear()
    assert data.fingerprint(tested) != first


def test_another_kind_of_head_cannot_answer(run_of, conf, toy_csv, execute):
    content = {"name": "toy", "reader": "hub", "path": str(toy_csv), "max_length": 16}
    (conf / "conf" / "dataset" / "toy.yaml").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"dataset.also=toy is a task of classification"):
        execute([run_of("run", also=("toy",))])
    with pytest.raises(UserError, match=r"dataset.test=smal is no dataset. Did you mean 'small'"):
        execute([run_of("other", test=("smal",))])


def test_validation_reads_so_many_rows_and_the_test_all(run_of, monkeypatch, execute):
    seen, read = {}, []
    head = data.Encoded.first
    monkeypatch.setattr(data.Encoded, "first", lambda self, count: read.append(count) or head(self, count))
    for name, rows in (("all", None), ("some", 5)):
        run = run_of(name, train={"eval_rows": rows}, metric="loss")
        [record] = execute([run])
        seen[name] = record["metrics"]
    assert read == [5]
    assert seen["all"]["test/loss"] == seen["some"]["test/loss"]
    assert seen["all"]["validation/loss"] != seen["some"]["validation/loss"]
