"""An adapter that PEFT trained and saved answers as it did there; a bad one is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from experiments.artifacts import open_adapter
from experiments.errors import UserError
from experiments.predict import Predictor
from experiments.predict.__main__ import main


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


def test_an_adapter_of_peft_answers_as_it_did_there(foreign, tiny_bert, tmp_path, rows):
    folder, model = foreign
    (tmp_path / "in.txt").write_text("good 4\nsomething else\n")
    assert main([str(folder), "--input", str(tmp_path / "in.txt"), "--labels", "a,b,c"]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    for row in rows():
        with torch.no_grad():
            logits = model(**tokenizer(row["text"], return_tensors="pt")).logits[0]
        scores = [float(row[f"score {label}"]) for label in "abc"]
        assert scores == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)


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
        (lambda f: (f / "export.json").write_text('{"labels": 3}'), "export.json is damaged"),
        (lambda f: (f / "export.json").write_text("[]"), "export.json is damaged"),
        (
            lambda f: (f / "adapter_config.json").write_text("[" * 100_000),
            "adapter_config.json cannot be read",
        ),
        (
            lambda f: (f / "adapter_config.json").write_bytes(b"\xff\xfe"),
            "adapter_config.json cannot be read",
        ),
        (lambda f: (f / "adapter_config.json").unlink(), "it is not an adapter of PEFT"),
        (lambda f: edit(f, base_model_name_or_path=["a"]), r"model=hf: .* is not on this machine"),
        (lambda f: edit(f, r="8"), "r should be a whole number"),
        (lambda f: edit(f, peft_type="LOHA"), "peft_type 'LOHA'"),
        (
            lambda f: (f / "adapter_model.safetensors").write_bytes(b""),
            "adapter_model.safetensors is damaged",
        ),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "holds no adapter_model.safetensors"),
        (
            lambda f: rewrite(f, lambda t: t[f"{QUERY}A.weight"].fill_(float("nan"))),
            "values that are not finite",
        ),
        (lambda f: rewrite(f, lambda t: t.clear()), "found none"),
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
