"""What is counted from the headers of a model's files is what the loaded model has."""

import pytest

from experiments.sizing.skeleton import skeleton

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
DECODER = {"n_embd": 16, "n_head": 4, "n_layer": 2, "vocab_size": 31}
KINDS |= {  # read from their files
    "albert": {**SMALL, "embedding_size": 12},
    "xlm-roberta": SMALL,
    "camembert": SMALL,
    "deberta": SMALL,
    "mt5": KINDS["t5"],
    "umt5": KINDS["t5"],
    "qwen3": {**GQA, "head_dim": 6},
    "gemma": {**GQA, "head_dim": 6},
    "gemma2": {**GQA, "head_dim": 6},
    "phi": {**GQA, "num_key_value_heads": 2},
}
BUILT = {  # from their classes
    "opt": {**SMALL, "ffn_dim": 20, "word_embed_proj_dim": 12, "max_position_embeddings": 24},
    "bart": {
        "d_model": 12,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 20,
        "decoder_ffn_dim": 20,
        "vocab_size": 31,
        "max_position_embeddings": 24,
    },
    "gpt_neox": SMALL,
    "bloom": {"hidden_size": 12, "n_head": 2, "n_layer": 2, "vocab_size": 31},
    "mpt": {"d_model": 12, "n_heads": 2, "n_layers": 2, "vocab_size": 31},
    "falcon": SMALL,
    "gpt_bigcode": DECODER,
    "gptj": {**DECODER, "rotary_dim": 4},
    "funnel": {
        "d_model": 12,
        "n_head": 2,
        "d_head": 6,
        "d_inner": 20,
        "block_sizes": [1, 1],
        "vocab_size": 31,
    },
    "convbert": {**SMALL, "embedding_size": 12, "head_ratio": 1},
    "nystromformer": {**SMALL, "num_landmarks": 2, "segment_means_seq_len": 8},
    "roformer": {**SMALL, "embedding_size": 12},
    "longformer": {**SMALL, "attention_window": 4},
    "big_bird": SMALL,
    "xlm": {"emb_dim": 12, "n_layers": 2, "n_heads": 2, "vocab_size": 31},
    "flaubert": {"emb_dim": 12, "n_layers": 2, "n_heads": 2, "vocab_size": 31},
    "mixtral": {**GQA, "num_local_experts": 2},
    "qwen2_moe": {
        **GQA,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
    },
    "gpt_oss": {**GQA, "head_dim": 6, "num_local_experts": 2, "num_experts_per_tok": 1},
    "jamba": {
        **GQA,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "mamba_dt_rank": 3,
        "mamba_d_state": 4,
        "use_mamba_kernels": False,
        "pad_token_id": 0,
    },
    "qwen3_next": {
        **GQA,
        "head_dim": 6,
        "layer_types": ["linear_attention", "full_attention"],
        "num_experts": 2,
        "linear_num_value_heads": 2,
        "linear_num_key_heads": 1,
        "linear_key_head_dim": 4,
        "linear_value_head_dim": 4,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
    },
}
KINDS |= BUILT
BARE, WITH_A_HEAD = "AutoModel", "AutoModelForSequenceClassification"

ONE_FORM = {(kind, WITH_A_HEAD) for kind in BUILT} - {("funnel", WITH_A_HEAD)} | {("funnel", BARE)}


@pytest.fixture(
    scope="module",
    params=[(kind, form) for kind in KINDS for form in (BARE, WITH_A_HEAD) if (kind, form) not in ONE_FORM],
    ids="-".join,
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
    assert found.classifier.norm == outside - weights - biases


@pytest.mark.parametrize("layers", [None, "1"])
def test_targets_are_what_attaching_would_adapt(pair, layers):
    from variants._core.names import TargetError, block_index
    from variants._core.targets import find, unreached

    found, model = pair
    some = [name.rpartition(".")[2] for name in found.layout.maps if block_index(name) in (0, 1)][-1]
    for targets in ("qv", "qkv", "attention", "mlp", "all", "experts", (some,), f"re:.*\\.[01]\\..*{some}"):
        try:
            matched = find(model, targets, layers=layers).values()
        except TargetError:  # no such map, or one that cannot be cut
            assert found.matches(targets, layers) == []
            continue
        try:
            unused = unreached(model)
        except RuntimeError:  # Nystromformer takes no short texts
            unused = ()
        theirs = [(t.d_in, t.d_out) for ts in matched for t in ts if t.module not in unused]
        assert sorted((t.d_in, t.d_out) for t in found.matches(targets, layers)) == sorted(theirs)


def test_nothing_is_matched_by_a_name_that_there_is_not(pair):
    found, _ = pair
    assert found.matches(("qurey",)) == found.matches("re:quer") == []


def test_a_model_that_is_not_here_has_no_skeleton(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "bert", "hidden_size": 12, "num_attention_heads": 2}'
    )
    assert skeleton(Spec(tmp_path)) is None  # no weights beside it


METHODS = {
    "lora": {"targets": "all"}, "dora": {"targets": "attention"}, "adalora": {"targets": "all"},
    "full": {}, "bitfit": {}, "probe": {}, "zero": {},
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_the_plan_counts_what_the_record_will_say(pair, name):
    import copy

    from experiments.sizing.counts import count
    from experiments.spec import RunSpec, Train
    from variants import RunConfig, attach, dense_size

    found, model = pair
    method = name if name in ("full", "bitfit", "probe", "zero") else "adapters"
    if name == "bitfit" and not found.biases:
        return  # refused by the method
    adapted = {"r": 2, "alpha": 4.0, **METHODS[name]} if method == "adapters" else {}
    axes, options = {"delta": name} if adapted else {}, {"init_r_ratio": 1.5, "orth_weight": 0.1}
    spec = RunSpec(
        study="s", variant=name, method=method, **({"r": None, "alpha": None, "targets": None} | adapted),
        axes=axes, options=options, model="hf", model_options={}, dataset="csv", dataset_options={}, lr=0.1,
        seed=0, train=Train(),
    )  # fmt: skip
    counted = count(spec, found, 3)
    run = RunConfig(0, method=method, axes=axes, options=options, **adapted)
    clone = copy.deepcopy(model)
    before = dense_size(clone)
    attached = attach(clone, [run])
    assert counted.trained == attached.count(0)
    assert counted.total == before + (0 if method == "full" else attached.count(0))
