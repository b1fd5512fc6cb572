"""A merged checkpoint has the settings of its base, but for those that mislead or cannot be kept."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    pipeline,
)

from experiments.export import Options, export
from experiments.export._merged import _valid
from experiments.training.execute import execute
from experiments.training.run_state import Run


@pytest.fixture
def run_on(tmp_path, cells_of, toy_csv):
    """A short run on a folder: its folder under runs/."""

    def made(folder, data):
        from experiments.record import RunFolder
        from experiments.tracking import make

        words = f"variant=lora r=2 targets=qv train.steps=2 train.evaluations=1 model=hf {data}"
        [spec] = cells_of(f"{words} model.path={folder}")
        run = Run(spec, "run", RunFolder(tmp_path / "study" / "run"), make({"name": "none"}))
        quiet = SimpleNamespace(run_started=lambda *a, **k: None, step=lambda *a, **k: None)
        [record] = execute([run], display=quiet)
        assert record["status"] == "completed"
        return run.folder.path

    return made


def merged(run, out):
    from experiments.artifacts import open_source

    export(open_source(run), "merged", out, Options())
    return json.loads((out / "export.json").read_text())


ODD = [
    {"temperature": 0.7, "top_k": 11},
    {"do_sample": False, "typical_p": 0.4, "eos_token_id": 1},
    {"num_beams": 1, "length_penalty": 2.5, "max_new_tokens": 7},
    {"output_scores": True, "repetition_penalty": 1.3},
]


@pytest.mark.parametrize("odd", ODD)
def test_a_generation_config_that_cannot_be_saved_keeps_what_can(odd, tmp_path):
    given = GenerationConfig(bos_token_id=0, **odd)
    with pytest.raises(ValueError):
        given.save_pretrained(tmp_path)
    kept, left_out = _valid(given)
    kept.save_pretrained(tmp_path)
    again = GenerationConfig.from_pretrained(tmp_path)
    assert left_out and set(left_out) < set(odd) | {"bos_token_id"}
    for name, value in {"bos_token_id": 0, **odd}.items():
        assert (getattr(again, name) == value) is (name not in left_out)


def test_a_valid_generation_config_stays_as_it_is():
    given = GenerationConfig(do_sample=True, temperature=0.3, top_p=0.6, num_beams=3, early_stopping=True)
    kept, left_out = _valid(given)
    assert kept is given and left_out == []


def test_a_base_with_odd_generation_settings_is_exported(tmp_path, tiny_llama, run_on):
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    settings = {"do_sample": False, "min_p": 0.2, "bos_token_id": 0, "eos_token_id": 1}
    (base / "generation_config.json").write_text(json.dumps(settings))
    table = tmp_path / "toy.jsonl"
    rows = ({"prompt": f"say {i}", "completion": "ab"[i % 2] * 3} for i in range(60))
    table.write_text("\n".join(map(json.dumps, rows)) + "\n")
    about = merged(run_on(base, f"dataset=instruct dataset.path={table}"), tmp_path / "out")
    assert about["generation_settings_left_out"] == ["min_p"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generation_config.eos_token_id == 1
    model.save_pretrained(tmp_path / "again")  # nothing in it stands against saving it


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_the_classes_are_read_as_classes_whatever_the_base_answered(
    tmp_path, tiny_bert, toy_csv, run_on, problem
):
    base = tmp_path / "base"
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=5)
    model.config.problem_type, model.config.function_to_apply = problem, "none"
    model.save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(base)
    merged(run_on(base, f"dataset=csv dataset.path={toy_csv}"), tmp_path / "out")
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["problem_type"]
        == "single_label_classification"
    )
    [scores] = pipeline("text-classification", model=str(tmp_path / "out"), top_k=None)(["good 7"])
    assert {row["label"] for row in scores} == {"yes", "no"}
    assert sum(row["score"] for row in scores) == pytest.approx(1, abs=1e-6)
