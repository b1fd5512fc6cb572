"""Many runs on one base answer as each did alone: as its predictions.parquet and transformers say."""

import csv
import io
import json
import math
import shutil
from contextlib import nullcontext

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from experiments import data, models
from experiments.errors import UserError
from experiments.export import export
from experiments.export.__main__ import main as export_main
from experiments.opened import open_adapter, open_source
from experiments.predict import Predictor
from experiments.predict.__main__ import main


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


# --- the command


def rows(capsys):
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_lines_of_text_from_a_file(finished, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("good 4\n\nbad 1\n")
    runs = [str(finished("lora")), str(finished("dora"))]
    assert main([*runs, "--input", str(tmp_path / "in.txt")]) == 0
    said = capsys.readouterr()
    table = list(csv.DictReader(io.StringIO(said.out)))
    assert [(r["row"], r["text"]) for r in table] == [("1", "good 4")] * 2 + [("3", "bad 1")] * 2
    assert list(table[0]) == ["row", "run", "text", "prediction", "score no", "score yes"]
    for row in table:
        scores = {label: float(row[f"score {label}"]) for label in ("no", "yes")}
        assert sum(scores.values()) == pytest.approx(1) and max(scores, key=scores.get) == row["prediction"]
    assert "runs 2, packs 1, texts 2 (1 empty passed over)" in said.err


def test_tables_in_and_out(finished, tmp_path, capsys):
    run, texts = str(finished("lora")), ["good 4", "bad, bad 1"]
    (tmp_path / "in.csv").write_text('nr,text\n1,good 4\n2,"bad, bad 1"\n')
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"review": t, "n": 1}) + "\n" for t in texts))
    assert main([run, "--input", str(tmp_path / "in.csv")]) == 0
    from_csv = rows(capsys)
    out = tmp_path / "out.jsonl"
    assert main([run, "--input", str(tmp_path / "in.jsonl"), "--text", "review", "--output", str(out)]) == 0
    from_json = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["text"] for r in from_csv] == [r["text"] for r in from_json] == texts
    for one, other in zip(from_csv, from_json, strict=True):
        assert one["prediction"] == other["prediction"]
        assert float(one["score no"]) == pytest.approx(other["scores"]["no"], abs=1e-6)


def test_texts_from_the_standard_input(finished, monkeypatch, capsys):
    for words, typed in (
        (["--input", "-"], b"good 4\n"),
        (["--input", "-", "--input-format", "csv"], b"text\ngood 4\n"),
    ):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed)))
        assert main([str(finished("lora")), *words]) == 0
        assert [r["text"] for r in rows(capsys)] == ["good 4"]


def test_prompts_and_chats_in_a_table(finished, tmp_path, capsys):
    chat = [{"role": "user", "content": "say a"}, {"role": "assistant", "content": "aaa"}]
    for name, line in (("prompts", {"prompt": "say a"}), ("chats", {"messages": chat})):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
        run = str(finished("lora", model="llama", targets="all"))
        assert main([run, "--input", str(tmp_path / f"{name}.jsonl"), "--max-new-tokens", "3"]) == 0
        (row,) = rows(capsys)
        assert row["text"] == "say a" and list(row) == ["row", "run", "text", "prediction"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "in.txxt"], "there is no file .*in.txxt. Did you mean 'in.txt'"),
        (["--input", "."], ". is a folder. Give a file of texts"),
        (["--input", "empty.txt"], "holds no text"),
        (
            ["--input", "in.csv", "--text", "reviw"],
            "no column reviw. There are: review, stars. Did you mean 'review'",
        ),
        (["--input", "odd.csv"], "no column named like a text. There are: a, b. .*--text <column>"),
        (["--input", "latin.txt"], "is not UTF-8 text"),
        (
            ["--input", "numbers.jsonl", "--text", "x"],
            "row 1: expected a text, or a list of messages, found '5'",
        ),
        (["--input", "in.txt", "--output", "out.xlsx"], "give a name that ends in .csv or .jsonl"),
        (
            ["--input", "in.txt", "--text", "review"],
            "--text review names a column, but in.txt is read as lines",
        ),
        (["--input", "in.txt", "--batch-size", "0"], "--batch-size 0: expected 1 or more"),
    ],
)
def test_a_mistake_is_one_sentence(words, message, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = {
        "in.txt": "good 1\n",
        "empty.txt": "\n \n",
        "in.csv": "review,stars\ngood,1\n",
        "odd.csv": "a,b\n1,2\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "latin.txt").write_bytes("für\n".encode("latin1"))
    (tmp_path / "numbers.jsonl").write_text('{"x": 5}\n')
    assert main([str(finished("lora")), *words]) == 2
    said = capsys.readouterr()
    assert __import__("re").search(message, said.err) and not said.out


def test_all_of_a_study_passes_over_its_report(finished, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("good 1\n")
    study = tmp_path / "demo"
    for variant in ("lora", "dora"):
        shutil.copytree(finished(variant), study / finished(variant).name)
    (study / "report").mkdir()
    (study / "report/report.html").write_text("figures")
    (study / "notes.md").write_text("mine")
    caught = sorted(str(path) for path in study.iterdir())
    assert len(caught) == 4 and main([*caught, "--input", str(tmp_path / "in.txt")]) == 0
    said = capsys.readouterr()
    assert {row["run"] for row in csv.DictReader(io.StringIO(said.out))} == {
        p.name for p in study.glob("*-bert*")
    }
    for name in ("report", "notes.md"):
        assert f"note: {study / name} is no run and is passed over" in said.err
    assert main([str(study / "report"), "--input", str(tmp_path / "in.txt")]) == 2
    assert main([*caught, str(study / "gone"), "--input", str(tmp_path / "in.txt")]) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--model", "--labels"])
def test_what_is_said_of_adapters_is_refused_for_runs(flag, finished, tmp_path, capsys):
    run = str(finished("lora"))
    for command, words in (
        (main, ["--input", "in.txt"]),
        (export_main, [str(tmp_path / "out"), "--to", "merged"]),
    ):
        assert command([run, *words, flag, "a,b"]) == 2
        assert f"{flag} a,b is for an adapter of PEFT, but {run} is a run" in capsys.readouterr().err


def test_runs_that_cannot_share_a_model_are_refused(finished, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("good 1\n")
    words = ["--input", str(tmp_path / "in.txt")]
    assert main([str(finished("lora")), str(finished("lora", model="gpt2")), *words]) == 2
    assert "stand on different bases" in capsys.readouterr().err
    assert main([str(finished("lora")), str(finished("lora")), *words]) == 2
    assert "is given twice" in capsys.readouterr().err


# --- adapters from elsewhere


@pytest.fixture
def foreign(tiny_bert, tmp_path):
    """An adapter that PEFT itself trained, or rather moved, and saved; and its model."""
    peft = pytest.importorskip("peft")
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=3)
    config = peft.LoraConfig(r=3, task_type="SEQ_CLS", target_modules=["query", "value"], lora_alpha=5)
    model = peft.get_peft_model(model, config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name or "classifier" in name:
                p += 0.2 * torch.randn_like(p)
    model.save_pretrained(tmp_path / "foreign")
    return tmp_path / "foreign", model


def test_an_adapter_of_peft_answers_as_it_did_there(foreign, tiny_bert, tmp_path, capsys):
    folder, model = foreign
    (tmp_path / "in.txt").write_text("good 4\nsomething else\n")
    assert main([str(folder), "--input", str(tmp_path / "in.txt"), "--labels", "a,b,c"]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    for row in rows(capsys):
        with torch.no_grad():
            logits = model(**tokenizer(row["text"], return_tensors="pt")).logits[0]
        scores = [float(row[f"score {label}"]) for label in "abc"]
        assert scores == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)


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


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def without(*parts):
    return lambda t: [t.pop(key) for key in list(t) if any(part in key for part in parts)]


QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_"


def of_key(tensors):
    """What an adapter of queries would hold if it adapted keys too."""
    return {name.replace("query", "key"): t.clone() for name, t in tensors.items() if "query" in name}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
            "adapter_model.bin could run code when opened and is not read: save it again as safetensors",
        ),
        (
            lambda f: rewrite(f, without("layer.0.attention.self.query")),
            "tensors for 4 modules were expected",
        ),
        (lambda f: rewrite(f, without("query.lora_B")), r"should have tensors A\+B, found"),
        (lambda f: rewrite(f, lambda t: t.update({f"{QUERY}C.weight": torch.ones(1)})), "is of a kind"),
        (lambda f: rewrite(f, without("classifier")), "holds no head"),
        (
            lambda f: rewrite(f, without("classifier.bias")),
            "lacks classifier.bias: the base has no head of its own",
        ),
        (
            lambda f: rewrite(f, lambda t: t.update({f"{QUERY}A.weight": torch.ones(3, 23)})),
            r"query A should be \(3, 24\) for this model, found \(3, 23\)",
        ),
        (
            lambda f: rewrite(f, lambda t: t.update(of_key(t))),
            "tensors for modules outside its target_modules were found, .*attention.self.key",
        ),
        (lambda f: edit(f, base_model_name_or_path=None), "does not say which model it is for"),
        (lambda f: (f / "export.json").write_text('{"labels": ["x"]}'), "a head for 3 classes, but 1 labels"),
        (lambda f: (f / "export.json").write_text("{"), "export.json is damaged"),
    ],
)
def test_a_bad_adapter_is_refused(spoil, message, foreign):
    folder, _ = foreign
    spoil(folder)
    with pytest.raises(UserError, match=message):
        Predictor([open_adapter(folder)])(["good 4"])


def test_an_adapter_for_another_base_is_refused(foreign, tiny_gpt2, tmp_path, capsys):
    folder, _ = foreign
    (tmp_path / "in.txt").write_text("good 4\n")
    assert main([str(folder), "--model", str(tiny_gpt2), "--input", str(tmp_path / "in.txt")]) == 2
    said = capsys.readouterr().err
    assert "is put on" in said and "is for another model: this one has no bert.encoder" in said
    assert f"The base is folder {tiny_gpt2}" in said
