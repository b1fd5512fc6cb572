"""Each kind of task: its tensors, its loss and its scores, against closed forms and the plain model."""

import math
import shutil

import pytest
import torch
from transformers import AutoTokenizer

from experiments import data, models
from experiments.data import RawTask, Rows
from experiments.errors import UserError
from experiments.frozen import FrozenDict
from experiments.metrics.resampling import from_statistics
from experiments.tasks import Outputs, kind_of, names
from experiments.tasks._base import IGNORE
from experiments.training.evaluate import evaluate
from experiments.training.losses import row_losses


@pytest.fixture(autouse=True)
def nothing_known(tmp_path, monkeypatch):
    data._encoded.clear()
    monkeypatch.setenv("ABLORA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def prepared(spec_of):
    """The model and the encoded task, all splits alike: `prepared(folder, kind, labels, **columns)`."""

    def prepared(folder, kind, classes=(), *, max_length=64, settings=None, **columns):
        splits = {split: Rows.of(**columns) for split in ("train", "validation", "test")}
        raw = RawTask("t", kind, classes, splits, settings=FrozenDict(settings))
        kind = kind_of(kind)
        model, tokenizer, _ = models.load(spec_of(folder), kind=kind.head, n_labels=kind.outputs(raw))
        start = model.config.decoder_start_token_id if model.config.is_encoder_decoder else None
        return model, data.encode(raw, tokenizer, max_length, start)

    return prepared


def scores(model, task, size=3):
    [found] = evaluate(model, task, "test", runs=1, precision="fp32", batch_size=size)
    return found


def test_the_kinds():
    assert names() == [
        "choice", "classification", "completion", "language_modeling", "multilabel", "regression",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"Did you mean 'choice'\?"):
        kind_of("choise")


def test_pairs_have_token_types_where_the_tokenizer_has_them(prepared, tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "typed")
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = AutoTokenizer.from_pretrained(folder, model_input_names=names)
    tokenizer.save_pretrained(folder)
    pairs = {"texts": ["a b", "c", "d e f"], "seconds": ["x", "y z", "w"], "labels": [0, 1, 1]}
    model, task = prepared(folder, "classification", ("no", "yes"), **pairs)
    part = task.splits["test"]
    row = [task.tokenizer.decode(ids) for ids in part.input_ids].index("[CLS] a b [SEP] x [SEP] [PAD] [PAD]")
    first, second = part.extra["token_type_ids"][row], part.attention_mask[row]
    assert (first * second).tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    found = scores(model, task)
    with torch.no_grad():
        logits = model(
            input_ids=part.input_ids,
            attention_mask=part.attention_mask,
            token_type_ids=part.extra["token_type_ids"],
        ).logits
    expected = torch.nn.functional.cross_entropy(logits, part.labels, reduction="none")
    assert found.columns["loss"] == pytest.approx(expected.tolist(), abs=1e-6)


def test_many_classes_of_one_text_are_scored_as_sets(prepared, tiny_bert):
    columns = {"texts": ["aa", "bb", "cc"], "labels": [(0, 2), (), (1,)]}
    model, task = prepared(tiny_bert, "multilabel", ("u", "v", "w"), **columns)
    part, found = task.splits["test"], scores(model, task)
    with torch.no_grad():
        logits = model(input_ids=part.input_ids, attention_mask=part.attention_mask).logits.double()
    y, p = part.labels.double(), torch.sigmoid(logits)
    assert found.metrics["loss"] == pytest.approx(float(-(y * p.log() + (1 - y) * (1 - p).log()).sum() / 3))
    guesses = logits > 0
    hits, there = float((guesses & (y > 0)).sum()), float(guesses.sum() + y.sum())
    assert found.metrics["micro_f1"] == pytest.approx(2 * hits / there)
    assert found.metrics["accuracy"] == pytest.approx(sum(found.columns["score"]) / 3)
    assert sorted(found.columns["label"]) == ["", "u, w", "v"]


def test_a_value_is_learned_by_its_squared_error(prepared, tiny_bert):
    columns = {"texts": ["aa", "bb", "cc d", "e"], "labels": [0.5, 2.0, -1.0, 4.25]}
    model, task = prepared(tiny_bert, "regression", **columns)
    part, found = task.splits["test"], scores(model, task)
    assert (task.metric, task.goal) == ("pearson", "max") and model.config.num_labels == 1
    with torch.no_grad():
        values = model(input_ids=part.input_ids, attention_mask=part.attention_mask).logits[:, 0].double()
    errors = (values - part.labels) ** 2
    assert found.metrics["mse"] == pytest.approx(float(errors.mean()), rel=1e-6)
    assert found.metrics["loss"] == pytest.approx(float(errors.mean()), rel=1e-6)
    x, y = values - values.mean(), part.labels.double() - part.labels.double().mean()
    assert found.metrics["pearson"] == pytest.approx(float((x * y).sum() / (x.norm() * y.norm())), rel=1e-6)


# --- text


def nats(model, ids, first=1):
    """The summed loss of the tokens from `first` on, in float64."""
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -sum(float(logp[t - 1, ids[t]]) for t in range(first, len(ids)))


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama"])
def test_perplexity_and_bits_per_byte_are_those_of_the_texts_alone(prepared, request, name):
    texts = ["hello", "a longer text that needs windows, \u00e9\u00e9!", "x"]
    model, task = prepared(request.getfixturevalue(name), "language_modeling", texts=texts, max_length=16)
    found, total, tokens = scores(model, task), 0.0, 0
    start = task.tokenizer.bos_token_id
    for text in texts:
        ids = task.tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens += len(ids)
        for at in range(0, len(ids), 15):  # 15 new tokens a window, after the last of the window before
            total += nats(model, [start, *ids][at : at + 16])
    assert sum(found.columns["tokens"]) == tokens
    assert found.metrics["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-6)
    bytes_ = sum(len(text.encode()) for text in texts)
    assert found.metrics["bits_per_byte"] == pytest.approx(total / math.log(2) / bytes_, abs=1e-6)
    assert task.goal == "min"


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama"])
def test_packed_texts_do_not_see_each_other(prepared, request, name):
    texts = ["hello you", "a bc", "something else", "x", "and on"]
    model, task = prepared(request.getfixturevalue(name), "language_modeling", texts=texts, max_length=40)
    part = task.splits["train"]
    assert len(part.ids) < len(texts)
    with torch.no_grad():
        logits = model(input_ids=part.input_ids, position_ids=part.extra["position_ids"]).logits
    losses = row_losses(logits, part.labels)
    start, alone = task.tokenizer.bos_token_id, 0.0
    for text in texts:
        alone += nats(model, [start, *task.tokenizer(text, add_special_tokens=False)["input_ids"]])
    assert float(losses.total.sum()) == pytest.approx(alone, rel=1e-5)
    assert int(losses.targets.sum()) == sum(map(len, texts))
    seen = model(input_ids=part.input_ids, attention_mask=part.attention_mask).logits
    assert not torch.allclose(seen, logits, atol=1e-3), "without positions the texts would mix"


def test_the_most_likely_option_is_chosen_by_three_rules(prepared, tiny_llama):
    prompts = [(("prompt", f"q{i} "),) for i in range(7)]
    options = [("yes", "perhaps so", "no")[: 2 + i % 2] for i in range(7)]
    labels = [1] * 7
    model, task = prepared(tiny_llama, "choice", turns=prompts, options=options, labels=labels)
    assert (task.metric, task.rows["test"]) == ("accuracy", 7) and len(task.splits["test"].ids) == 17
    assert len(task.splits["train"].ids) == 7
    found, ordered = scores(model, task), Rows.of(turns=prompts, options=options, labels=labels)
    hits = {"accuracy": 0, "accuracy_per_token": 0, "accuracy_per_character": 0}
    for row, (turns, texts, right) in enumerate(
        zip(ordered.turns, ordered.options, ordered.labels, strict=True)
    ):
        values = []
        for text in texts:
            prompt = task.tokenizer(turns[0][1])["input_ids"]
            ids = task.tokenizer(text, add_special_tokens=False)["input_ids"]
            values.append(-nats(model, prompt + ids, first=len(prompt)))
            assert found.columns["likelihood"][row][len(values) - 1] == pytest.approx(values[-1], rel=1e-5)
        sizes = [len(text) for text in texts]  # a token is a byte here
        per = [v / n for v, n in zip(values, sizes, strict=True)]
        hits["accuracy"] += values.index(max(values)) == right
        hits["accuracy_per_token"] += per.index(max(per)) == right
        hits["accuracy_per_character"] += per.index(max(per)) == right
    assert {rule: found.metrics[rule] for rule in hits} == {rule: n / 7 for rule, n in hits.items()}
    assert hits["accuracy"] != hits["accuracy_per_token"]


def test_generated_answers_are_scored_and_kept(prepared, tiny_gpt2):
    turns = [(("prompt", f"q{i} "), ("completion", f"#### {i}")) for i in range(5)]
    settings = {"metrics": ("exact_match", "bleu"), "answer": "number", "max_new_tokens": 6}
    model, task = prepared(tiny_gpt2, "completion", turns=turns, settings=settings)
    found = scores(model, task)
    assert (task.metric, task.goal) == ("exact_match", "max") and {"loss", "bleu"} <= set(found.metrics)
    assert sorted(found.columns["reference"]) == [[str(i)] for i in range(5)]
    assert found.metrics["exact_match"] == sum(found.columns["score"]) / 5
    assert from_statistics("bleu", found.columns["statistics/bleu"])[0] == found.metrics["bleu"]
    truth = [[str(i)] for i in range(5)]
    right = Outputs(torch.ones(5), torch.ones(5), torch.zeros(5), [f"so {i}.0 it is" for i in range(5)])
    task.splits["test"].meta["reference"] = truth
    assert kind_of("completion").score(task, task.splits["test"], right).metrics["exact_match"] == 1.0


def test_an_encoder_decoder_reads_the_prompt_and_writes_the_completion(prepared, tiny_t5):
    turns = [(("prompt", f"q{i}:"), ("completion", f" a{i}")) for i in range(5)]
    settings = {"metrics": ("loss", "chrf"), "max_new_tokens": 6}
    model, task = prepared(tiny_t5, "completion", turns=turns, settings=settings)
    part, found = task.splits["test"], scores(model, task)
    plain = torch.full_like(part.labels, IGNORE)
    plain[:, :-1] = part.labels[:, 1:]  # transformers' own form: no place for the start token
    with torch.no_grad():
        out = model(input_ids=part.input_ids, attention_mask=part.attention_mask, labels=plain)
    assert found.metrics["loss"] == pytest.approx(float(out.loss), rel=1e-5)
    end = task.tokenizer.eos_token_id
    assert all(
        row[mask.bool()][-1] == end for row, mask in zip(part.input_ids, part.attention_mask, strict=True)
    )
    assert set(found.columns["reference"][0][0]) <= set("a01234")


def test_the_metrics_are_the_datasets_and_the_first_is_primary(prepared, tiny_bert, tiny_gpt2):
    columns = {"texts": ["aa", "bb", "cc"], "labels": [0, 1, 1]}
    _, task = prepared(tiny_bert, "classification", ("n", "y"), settings={"metrics": ("f1",)}, **columns)
    assert (task.metric, task.goal) == ("f1", "max") and "matthews" in task.metrics
    with pytest.raises(UserError, match="bleu is not for a task of classification"):
        prepared(tiny_bert, "classification", ("n", "y"), settings={"metrics": ("bleu",)}, **columns)
    turns = [(("prompt", "q"), ("completion", f"{i}")) for i in range(3)]
    with pytest.raises(UserError, match=r"belu is no metric.*Did you mean 'bleu'"):
        prepared(tiny_gpt2, "completion", turns=turns, settings={"metrics": ("belu",)})


def test_a_subset_is_the_same_first_examples(prepared, tiny_llama):
    prompts = [(("prompt", f"q{i} "),) for i in range(7)]
    model, task = prepared(tiny_llama, "choice", turns=prompts, options=[("a", "b")] * 7, labels=[0] * 7)
    [all_] = evaluate(model, task, "test", runs=1, precision="fp32", batch_size=5)
    [some] = evaluate(model, task, "test", runs=1, precision="fp32", batch_size=5, examples=3)
    assert some.columns["score"] == all_.columns["score"][:3]
    assert some.columns["likelihood"][2] == pytest.approx(all_.columns["likelihood"][2], rel=1e-6)
