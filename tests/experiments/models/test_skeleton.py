"""What is counted from the headers of a model's files is what the loaded model has."""

import pytest

from experiments.models import skeleton

SMALL = {
    "hidden_size": 12,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 20,
    "vocab_size": 31,
}
GQA = {**SMALL, "num_key_value_heads": 1}
KINDS = {
    "bert": SMALL,
    "roberta": SMALL,
    "electra": {**SMALL, "embedding_size": 12},
    "mpnet": SMALL,
    "distilbert": {"dim": 12, "n_heads": 2, "n_layers": 2, "hidden_dim": 20, "vocab_size": 31},
    "deberta-v2": {
        **SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "pooler_hidden_size": 12,
    },
    "modernbert": {
        **SMALL, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "gpt2": {"n_embd": 12, "n_head": 2, "n_layer": 2, "vocab_size": 31},
    "llama": GQA,
    "qwen2": GQA,
    "mistral": {**GQA, "head_dim": 6},
    "phi3": {**GQA, "pad_token_id": 0},
    "t5": {"d_model": 12, "d_kv": 6, "d_ff": 20, "num_layers": 2, "num_heads": 2, "vocab_size": 31},
}  # fmt: skip
BARE, WITH_A_HEAD = "AutoModel", "AutoModelForSequenceClassification"


@pytest.fixture(
    scope="module", params=[(kind, form) for kind in KINDS for form in (BARE, WITH_A_HEAD)], ids="-".join
)
def pair(request, tmp_path_factory):
    """A model on the disk, read as its skeleton, and a classifier made from the same configuration."""
    import torch
    import transformers

    kind, form = request.param
    folder = tmp_path_factory.mktemp("model")
    config = transformers.AutoConfig.for_model(kind, **KINDS[kind], num_labels=3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(transformers, form).from_config(config).save_pretrained(folder)
        whole = transformers.AutoModelForSequenceClassification.from_config(config)
    return skeleton(Spec(folder)), whole


class Spec:
    """What of a spec says where its model is."""

    model = "hf"

    def __init__(self, folder):
        self.model_options = {"path": str(folder)}


def test_parameters_and_biases_are_those_of_the_model(pair):
    found, model = pair
    backbone = model.base_model if model.base_model is not model else model.transformer
    assert found.backbone == sum(p.numel() for p in backbone.parameters())
    biases = (p.numel() for name, p in backbone.named_parameters() if name.endswith("bias"))
    assert found.biases == sum(biases)


def test_the_head_is_the_one_that_the_classifier_gets(pair):
    from variants._core.own import head_linears

    found, model = pair
    heads = head_linears(model).values()
    weights = sum(head.weight.numel() for head in heads)
    biases = sum(head.bias.numel() for head in heads if head.bias is not None)
    assert found.head(3) == (weights, biases)
    outside = sum(p.numel() for p in model.parameters()) - found.backbone
    assert found.head_norm == outside - weights - biases


@pytest.mark.parametrize("layers", [None, "1"])
def test_targets_are_what_attaching_would_adapt(pair, layers):
    from variants._core.targets import find

    found, model = pair
    some = next(m.name.rpartition(".")[2] for m in found.maps if m.block == 1)
    for targets in ("qv", "qkv", "attention", "mlp", "all", (some,), f"re:.*\\.1\\..*{some}"):
        theirs = [(t.d_in, t.d_out) for ts in find(model, targets, layers=layers).values() for t in ts]
        assert sorted((d_in, d_out) for _, d_in, d_out in found.matches(targets, layers)) == sorted(theirs)


def test_nothing_is_matched_by_a_name_that_there_is_not(pair):
    found, _ = pair
    assert found.matches(("qurey",)) == found.matches("re:quer") == []


def test_a_model_that_is_not_here_has_no_skeleton(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "bert", "hidden_size": 12, "num_attention_heads": 2}'
    )
    assert skeleton(Spec(tmp_path)) is None  # no weights beside it
