"""A base that classifies already: its head answers by name, or is drawn anew, and what was done is said."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from experiments import models
from variants import RunConfig, attach

NAMES = ["green", "Blue", "red"]
TEXTS = ["abc", "a longer text", "x9", "the last of them"]


@pytest.fixture
def classifier(tmp_path, tiny_bert, tiny_llama):
    """The folder of a classifier that was fine-tuned: `classifier("bert", names)`."""

    def made(kind, names):
        folder = tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}"
        base = {"bert": tiny_bert, "llama": tiny_llama, "roberta": tiny_bert}[kind]
        tokenizer = AutoTokenizer.from_pretrained(base)
        torch.manual_seed(5)
        if kind == "roberta":
            from transformers import RobertaConfig, RobertaForSequenceClassification

            config = RobertaConfig(
                vocab_size=len(tokenizer), hidden_size=3, num_hidden_layers=1, num_attention_heads=1,
                intermediate_size=5, max_position_embeddings=66, pad_token_id=1, num_labels=len(names),
            )  # fmt: skip
            model = RobertaForSequenceClassification(config)  # its inner map is as wide as there are classes
        else:
            model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(names))
        for name, parameter in model.named_parameters():
            if name.startswith(("classifier", "score")):
                torch.nn.init.normal_(parameter)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: number for number, name in enumerate(names)}
        model.config.pad_token_id = tokenizer.pad_token_id if kind != "roberta" else 1
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return made


def answers(folder, labels, spec_of):
    """Logits per class name of what a run starts from, and the notes."""
    spec = spec_of(folder)
    model, tokenizer, info = models.load(spec, kind="classification", n_labels=len(labels), labels=labels)
    attached = attach(models.clone(model), [RunConfig(0, method="zero", targets=None)], fresh=info.fresh)
    rows = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = attached.model(rows["input_ids"], attention_mask=rows["attention_mask"]).logits
    return dict(zip(labels, logits.T, strict=True)), info


def published(folder, names):
    """What transformers makes of the checkpoint: logits by the names in its config."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(rows["input_ids"], attention_mask=rows["attention_mask"]).logits
    return dict(zip(names, logits.T, strict=True))


@pytest.mark.parametrize("kind", ["bert", "llama", "roberta"])
@pytest.mark.parametrize("labels", [("Blue", "green", "red"), ("red", "Blue", "green"), tuple(NAMES)])
def test_each_class_keeps_its_row_whatever_its_number(classifier, spec_of, kind, labels):
    folder = classifier(kind, NAMES)
    expected = published(folder, NAMES)
    found, info = answers(folder, labels, spec_of)
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name])
    assert info.fresh == frozenset()
    assert any("the head starts as the base's own" in note for note in info.notes)


def test_capitals_do_not_part_a_class_from_itself(classifier, spec_of):
    folder = classifier("bert", NAMES)
    found, _ = answers(folder, ("BLUE", "Green", "Red "), spec_of)
    expected = published(folder, NAMES)
    torch.testing.assert_close(found["BLUE"], expected["Blue"])
    torch.testing.assert_close(found["Red "], expected["red"])


def test_numbers_are_the_classes_that_have_no_names(classifier, spec_of):
    folder = classifier("bert", ["LABEL_0", "LABEL_1", "LABEL_2"])
    expected = published(folder, ["0", "1", "2"])
    found, _ = answers(folder, ("2", "0", "1"), spec_of)
    for name in "012":
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize(
    "names", [["LABEL_0", "LABEL_1", "LABEL_2"], ["x", "y", "z"], ["green", "blue", "BLUE"], ["red", "green"]]
)
def test_the_head_of_other_classes_is_drawn_anew_and_that_is_said(classifier, spec_of, names):
    folder = classifier("bert", names)
    found, info = answers(folder, ("blue", "green", "red"), spec_of)
    assert info.fresh == {"classifier.weight", "classifier.bias"}
    assert any("head for other classes" in note and "starts at random" in note for note in info.notes)
    scrambled = shutil.copytree(folder, folder.with_name("scrambled"))
    tensors = load_file(scrambled / "model.safetensors")
    save_file(
        {**tensors, "classifier.weight": tensors["classifier.weight"] + 1}, scrambled / "model.safetensors"
    )
    other, _ = answers(scrambled, ("blue", "green", "red"), spec_of)
    assert all(torch.equal(found[name], other[name]) for name in found)  # nothing of the old head is left


def test_a_base_without_a_head_says_nothing_of_it(tiny_bert, spec_of):
    _, info = answers(tiny_bert, ("a", "b"), spec_of)
    assert info.fresh == {"classifier.weight", "classifier.bias"}
    assert not any("head" in note for note in info.notes)


def test_names_stand_in_the_order_of_their_numbers(classifier, spec_of):
    """JSON has texts for keys, and "10" sorts before "2"."""
    names = [f"class {chr(97 + i)}" for i in range(11)]
    folder = classifier("bert", names)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = dict(sorted(config["id2label"].items()))
    (folder / "config.json").write_text(json.dumps(config))
    expected = published(folder, names)
    found, _ = answers(folder, tuple(reversed(names)), spec_of)
    for name in names:
        torch.testing.assert_close(found[name], expected[name])
