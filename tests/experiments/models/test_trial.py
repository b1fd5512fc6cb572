"""What running a model once shows: whether it sees what it is to predict, whether filling changes answers."""

import pytest
import torch
import transformers

from experiments.data import Encoded
from experiments.models.trial import check_model

TINY = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 40, "max_position_embeddings": 48, "type_vocab_size": 2,
}  # fmt: skip


def task(kind):
    draw = torch.Generator().manual_seed(2)
    lengths = torch.tensor([9, 31, 5, 20, 12])
    mask = (torch.arange(31) < lengths[:, None]).long()
    ids = torch.randint(3, 60, (5, 31), generator=draw) * mask
    labels = ids if kind == "completion" else torch.arange(5) % 2
    split = Encoded(tuple("abcde"), ids, mask, labels, 0)
    return type("Task", (), {"kind": kind, "splits": {"train": split}})


def made(auto, kind, **more):
    torch.manual_seed(0)
    sizes = {**TINY, **more}
    if kind == "xlnet":  # has positions without end
        del sizes["max_position_embeddings"]
    config = transformers.AutoConfig.for_model(kind, **sizes)
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("xlnet", {"d_model": 24, "n_layer": 2, "n_head": 4, "d_inner": 40}),
        ("bert", {}),
        ("xlm", {"emb_dim": 24}),
    ],
)
def test_a_model_that_sees_what_it_is_to_predict_is_found_out(kind, more):
    [problem], notes = check_model(made(transformers.AutoModelForCausalLM, kind, **more), task("completion"))
    assert f"a {kind} sees the tokens that it is to predict" in problem and notes == []


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "mamba"])
def test_a_decoder_passes(kind):
    more = {"n_head": 4, "n_layer": 2, "num_key_value_heads": 2}
    assert check_model(made(transformers.AutoModelForCausalLM, kind, **more), task("completion")) == ([], [])


def test_answers_that_depend_on_filling_are_noted():
    """FNet mixes all places, filling included."""
    auto = transformers.AutoModelForSequenceClassification
    problems, [note] = check_model(made(auto, "fnet"), task("classification"))
    assert problems == [] and "depends on how far it is filled up" in note


@pytest.mark.parametrize("kind", ["bert", "modernbert", "deberta-v2"])
def test_answers_that_do_not_depend_on_it_are_not(kind):
    more = {"pad_token_id": 0, "relative_attention": True}
    auto = transformers.AutoModelForSequenceClassification
    assert check_model(made(auto, kind, **more), task("classification")) == ([], [])
