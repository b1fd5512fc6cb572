"""The bridge to lm-evaluation-harness, against the harness's own model class on merged weights."""

import json
import shutil
import sys

import pytest
import torch
import yaml

pytest.importorskip("lm_eval", reason="pip install 'ablora[lm-eval]'")

import pyarrow.parquet as pq
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from experiments.artifacts import load_base, open_run, put_back
from experiments.errors import UserError
from experiments.lm_eval import harness
from experiments.lm_eval.__main__ import main, sources_of
from experiments.record import read, verify
from variants import merge

TASKS = ["toy_choice", "toy_text", "toy_answer"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a task of each type of request, over local JSON lines."""
    root = tmp_path_factory.mktemp("tasks")
    rows = [
        {"text": "say " + "ab"[i % 2] * (1 + i % 5) + f" {i}", "right": i % 3, "answer": "ab"[i % 2] * 3}
        for i in range(13)
    ]
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(root / "rows.jsonl")}},
        "test_split": "test",
        "metadata": {"version": 1.0},
    }

    def mean(name, more=True):
        return {"metric": name, "aggregation": "mean", "higher_is_better": more}

    toys = {
        "toy_choice": {
            "output_type": "multiple_choice", "doc_to_text": "{{text}}", "doc_to_target": "right",
            "doc_to_choice": ["aa", "b", "abc"], "metric_list": [mean("acc"), mean("acc_norm")],
        },
        "toy_text": {
            "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text * 15}}",
            "metric_list": [
                {"metric": name, "higher_is_better": False} for name in ("word_perplexity", "bits_per_byte")
            ],
        },
        "toy_answer": {
            "output_type": "generate_until", "doc_to_text": "{{text}}", "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["aab", "\n"], "max_gen_toks": 11, "do_sample": False},
            "metric_list": [mean("exact_match")],
        },
    }  # fmt: skip
    for name, toy in toys.items():
        (root / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **common, **toy}))
    return root


@pytest.fixture
def study(finished, tmp_path):
    """A study of completed runs: `study(run, ...)` copies them."""

    def made(*runs):
        for run in runs:
            shutil.copytree(run, tmp_path / "study" / run.name)
        return tmp_path / "study"

    return made


@pytest.fixture
def ask(folder):
    def asked(study, tasks=TASKS, *, model=None, **options):
        groups = sources_of(study, model).values()
        return harness.ask(groups, tasks, size=4, include=folder, **options)

    return asked


def by_the_harness(run, folder, tasks):
    """What the harness's own class says of a run's merged weights."""
    source = open_run(run)
    base = load_base(source)
    model = merge(put_back(base, [source]), 0, dtype=torch.float32).eval()
    return evaluator.simple_evaluate(
        HFLM(pretrained=model, tokenizer=base.tokenizer, batch_size=3, max_length=base.info.max_length - 1),
        tasks=tasks,
        task_manager=TaskManager(include_path=str(folder)),
        bootstrap_iters=0,
    )


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_every_run_of_a_pack_scores_as_its_merged_weights_do(finished, study, ask, folder, model):
    runs = [finished("lora", model=model, r=3), finished("dora", model=model), finished("lora", model=model)]
    place = study(*runs)
    ask(place)
    records = [read(place / run.name) for run in runs]
    names = {name for name in records[0]["metrics"] if name.startswith("lm_eval/")}
    assert names == {
        "lm_eval/toy_choice/acc", "lm_eval/toy_choice/acc_norm", "lm_eval/toy_text/word_perplexity",
        "lm_eval/toy_text/bits_per_byte", "lm_eval/toy_answer/exact_match",
    }  # fmt: skip
    for run, record in zip(runs, records, strict=True):
        expected = by_the_harness(run, folder, TASKS)
        for name in names:
            _, task, metric = name.split("/")
            assert record["metrics"][name] == pytest.approx(
                expected["results"][task][f"{metric},none"], rel=1e-4
            )
        written = pq.read_table(place / run.name / "lm_eval" / "toy_answer.parquet").to_pydict()
        answers = {str(s["doc_id"]): s["filtered_resps"] for s in expected["samples"]["toy_answer"]}
        assert {i: json.loads(a) for i, a in zip(written["id"], written["answer"], strict=True)} == answers
        assert any("aab" not in a[0] and len(a[0]) < 11 for a in answers.values())  # a stop text was met
    assert len({record["metrics"]["lm_eval/toy_text/bits_per_byte"] for record in records}) == 3


def test_what_was_found_is_part_of_the_study_and_under_its_checksums(finished, study, ask):
    run = finished("lora", model="llama", r=3)
    place = study(run)
    before = read(place / run.name)
    lines = ask(place, ["toy_choice"])
    after = read(place / run.name)
    assert verify(place / run.name) == []
    assert {k: v for k, v in after["metrics"].items() if not k.startswith("lm_eval/")} == before["metrics"]
    assert all(after[key] == before[key] for key in before.keys() - {"metrics", "files", "sha256"})
    scores = pq.read_table(place / run.name / "lm_eval" / "toy_choice.parquet").to_pydict()
    assert sum(scores["acc"]) / 13 == after["metrics"]["lm_eval/toy_choice/acc"]
    assert after["lm_eval"]["toy_choice"]["goals"]["lm_eval/toy_choice/acc"] == "max"
    assert (after["lm_eval"]["toy_choice"]["examples"], after["lm_eval"]["toy_choice"]["harness"]) == (
        13,
        "0.4.13",
    )
    assert any(line.startswith(f"{run.name}  lm_eval/toy_choice/acc 0.") for line in lines)
    ask(place, ["toy_text"], limit=5)
    both = read(place / run.name)
    assert {"toy_choice", "toy_text"} == both["lm_eval"].keys() and both["lm_eval"]["toy_text"][
        "examples"
    ] == 5
    assert both["lm_eval"]["toy_text"]["goals"]["lm_eval/toy_text/bits_per_byte"] == "min"


def test_a_pack_is_asked_once_for_all_of_its_runs(finished, study, ask, monkeypatch):
    runs = [finished("lora", model="llama", r=r) for r in (2, 3, 4)]
    asked = []
    monkeypatch.setattr(harness, "forward", lambda *a, **k: asked.append(k["runs"]) or forward(*a, **k))
    forward = __import__("experiments.training.evaluate", fromlist=["forward"]).forward
    ask(study(*runs), ["toy_choice"])
    assert asked == [3]


def test_a_run_that_says_what_its_base_says_is_refused(finished, study, ask):
    with pytest.raises(UserError, match=r"gives exactly the logits of its base.*sweep retry "):
        ask(study(finished("lora", model="llama", lr=0.0)), ["toy_choice"])


@pytest.mark.parametrize(
    ("model", "tasks", "message"),
    [
        ("llama", ["toy_chioce"], r"knows no task 'toy_chioce'\. Did you mean 'toy_choice'\?"),
        ("bert", ["toy_choice"], "no completed run of a language model"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(finished, study, ask, model, tasks, message):
    with pytest.raises(UserError, match=message):
        ask(study(finished("lora", model=model)), tasks)


def test_a_base_that_was_moved_is_given_anew(finished, study, tiny_bert, tmp_path):
    run = finished("lora", model="llama", targets="all")
    folder, old = study(run), open_run(run).loading.model_options["path"]
    moved = str(shutil.copytree(old, tmp_path / "moved"))
    [[source]] = sources_of(folder, moved).values()
    assert source.loading.model_options["path"] == moved
    with pytest.raises(UserError, match="is not the base of"):
        sources_of(folder, str(tiny_bert))


def test_a_study_that_is_not_there_is_refused(tmp_path, ask):
    with pytest.raises(UserError, match="there is no folder"):
        ask(tmp_path / "none", ["toy_choice"])


def test_a_task_that_samples_is_refused():
    with pytest.raises(UserError, match="samples its answers"):
        harness._settings({"until": ["x"], "do_sample": True, "temperature": 0.7})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none", "--tasks", "arc_easy"], "there is no folder none"),
        (["none", "--tasks", ","], "--tasks names no task"),
        (["none", "--tasks", "arc_easy", "--limit", "0"], "--limit 0: expected 1 or more"),
        (["none", "--tasks", "mine", "--include", "nowhere"], "--include nowhere: there is no such folder"),
    ],
)
def test_a_mistake_is_named_before_the_harness_is_loaded(words, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "experiments.lm_eval.harness")
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert "experiments.lm_eval.harness" not in sys.modules
