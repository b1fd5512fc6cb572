"""Many runs on one base answer as each did alone: as its predictions.parquet and transformers say."""

import math
import shutil
from contextlib import nullcontext

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments import data, models
from experiments.artifacts import open_source
from experiments.errors import UserError
from experiments.export import export
from experiments.predict import Predictor


def near(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a.prediction == b.prediction
        assert a.scores == pytest.approx(b.scores, abs=1e-5)


@pytest.fixture
def mixed(finished):
    """Runs of several variants, ranks and storages on one base, two of which no pack can hold."""
    runs = [
        finished("lora", r=4), finished("dora", r=2), finished("adalora"), finished("rslora"),
        finished("qlora", targets="all", compute="fp32"), finished("full", lr=0.005), finished("zero"),
    ]  # fmt: skip
    return [open_source(run) for run in runs]


def test_each_run_says_what_it_said_of_its_test_texts(mixed):
    raw = data.read(mixed[0].spec)
    predictor = Predictor(mixed)
    answers = predictor(raw.splits["test"].texts, batch_size=7)
    assert [len(pack) for pack in predictor.packs()] == [4, 1, 1, 1]
    for source in mixed:
        table = pq.read_table(source.path / "predictions.parquet").to_pydict()
        assert tuple(table["id"]) == raw.splits["test"].ids
        said = answers[source.name]
        assert [answer.prediction for answer in said] == table["prediction"]
        losses = [-math.log(a.scores[label]) for a, label in zip(said, table["label"], strict=True)]
        assert losses == pytest.approx(table["loss"], abs=1e-5)


def test_together_alone_and_merged_are_the_same(mixed):
    texts = ["good 3", "bad 44 and rather longer than the other", "", "?"]
    predictor, merged = Predictor(mixed), Predictor(mixed, merged=True)
    together, plain = predictor(texts), merged(texts)
    assert all(len(pack) == 1 for pack in merged.packs())
    for name in predictor.sources:
        near(predictor.use(name)(texts)[name], together[name])
        near(plain[name], together[name])


def test_a_swap_is_no_second_load(mixed, monkeypatch):
    predictor = Predictor(mixed)

    def load(*args, **kwargs):
        raise AssertionError("the base was loaded again")

    monkeypatch.setattr(models, "load", load)
    first, second = mixed[0].name, mixed[1].name
    before = predictor.use(first)(["good 3"])
    other = predictor.use(second)(["good 3"])
    assert before[first] != other[second]
    assert predictor.use(first)(["good 3"]) == before
    both = [predictor._packs[(name,)] for name in (first, second)]
    embedding = predictor.base.model.get_input_embeddings().weight.data_ptr()
    assert {model.get_input_embeddings().weight.data_ptr() for model in both} == {embedding}
    layer = "bert.encoder.layer.0.attention.self.query"
    stored = {model.get_submodule(layer).base.stored.data_ptr() for model in both}
    assert stored == {predictor.base.model.get_submodule(layer).weight.data_ptr()}


def test_four_bits_are_made_once_for_all_selections(finished):
    runs = [finished("qlora", targets="all", compute="fp32"), finished("qlora", r=3, compute="fp32")]
    sources = [open_source(run) for run in runs]
    predictor = Predictor(sources)
    for source in sources:
        predictor.use(source.name)(["good 3"])
    layer = "bert.encoder.layer.0.attention.self.query"
    one, two = (predictor._packs[(source.name,)].get_submodule(layer).base for source in sources)
    assert one is two


def test_who_is_asked_must_be_loaded(mixed):
    predictor = Predictor(mixed[:2])
    with pytest.raises(UserError, match=f"Did you mean '{mixed[0].name}'"):
        predictor.use(mixed[0].name[:-1] + "x")
    assert predictor.use(mixed[1].name)([]) == {mixed[1].name: []}


# --- text generation


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_completions_are_those_of_transformers_on_the_merged_model(model, finished, tmp_path):
    """One prompt at a time there, padded batches of several runs here."""
    runs = [finished(v, model=model, targets="all") for v in ("lora", "dora", "adalora")]
    prompts = ["say a 3", "say b 41 or something longer", "b"]
    predictor = Predictor([open_source(run) for run in runs])
    together = predictor(prompts, max_new_tokens=12, batch_size=2)
    assert len(list(predictor.packs())) == 1
    written = {answer.prediction for answers in together.values() for answer in answers}
    assert len(written) > 3  # else the test could not tell runs or prompts apart
    for run in runs:
        export(open_source(run), "merged", tmp_path / run.name)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / run.name)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / run.name)
        for prompt, answer in zip(prompts, together[run.name], strict=True):
            ids = tokenizer(prompt + "\n", return_tensors="pt")["input_ids"]
            out = plain.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id)
            assert tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True) == answer.prediction


def test_a_chat_goes_through_the_models_template(finished):
    source = open_source(finished("lora", model="llama", targets="all"))
    predictor = Predictor([source])
    chat = (("user", "say a 3"),)
    seen = data.encode_prompts([chat], predictor.base.tokenizer)
    assert predictor.base.tokenizer.decode(seen[0]) == "<s><user>say a 3<assistant>"
    assert predictor([chat], max_new_tokens=3)[source.name][0].scores is None


def test_a_prompt_that_leaves_no_room_is_refused(finished):
    predictor = Predictor([open_source(finished("lora", model="gpt2"))])
    with pytest.raises(UserError, match=r"prompt 2 has 71 tokens, and a completion may have 30.*at most 96"):
        predictor(["a", "b" * 70], max_new_tokens=30)


# --- from an export of ours


def test_our_own_export_is_read_back_with_its_labels(finished, tmp_path):
    run = finished("dora")
    export(open_source(run), "peft", tmp_path / "dora")
    source = open_source(tmp_path / "dora")
    assert source.labels == ("no", "yes")
    texts = ["good 4", "bad 5"]
    near(Predictor([source])(texts)["dora"], Predictor([open_source(run)])(texts)[run.name])


def test_our_own_export_is_refused_on_other_weights_of_the_same_shape(finished, tiny_bert, tmp_path):
    export(open_source(finished("lora")), "peft", tmp_path / "lora")
    other = shutil.copytree(tiny_bert, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    save_file({name: 1.01 * t for name, t in tensors.items()}, other / "model.safetensors", {"format": "pt"})
    for base, refused in ((tiny_bert, False), (other, True)):
        source = open_source(tmp_path / "lora", model=str(base))
        with pytest.raises(UserError, match="was trained on weights with") if refused else nullcontext():
            Predictor([source])(["good 4"])
