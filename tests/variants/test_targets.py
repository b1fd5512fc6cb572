"""Which maps a target means, on every architecture by what the maps are."""

import pytest

from variants import RunConfig, TargetError, attach, linear_shapes, resolve

# architecture -> the suffixes that each preset must match in every layer, and nothing else
EXPECTED = {
    "bert": {
        "qv": ["attention.self.query", "attention.self.value"],
        "qkv": ["attention.self.query", "attention.self.key", "attention.self.value"],
        "o": ["attention.output.dense"],
        "mlp": ["intermediate.dense", "output.dense"],
    },
    "roberta": {
        "qv": ["attention.self.query", "attention.self.value"],
        "qkv": ["attention.self.query", "attention.self.key", "attention.self.value"],
        "o": ["attention.output.dense"],
        "mlp": ["intermediate.dense", "output.dense"],
    },
    "deberta": {
        "qv": ["attention.self.query_proj", "attention.self.value_proj"],
        "qkv": ["attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"],
        "o": ["attention.output.dense"],
        "mlp": ["intermediate.dense", "output.dense"],
    },
    "distilbert": {
        "qv": ["attention.q_lin", "attention.v_lin"],
        "qkv": ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
        "o": ["attention.out_lin"],
        "mlp": ["ffn.lin1", "ffn.lin2"],
    },
    "gpt2": {
        "qv": ["attn.c_attn[q]", "attn.c_attn[v]"],
        "qkv": ["attn.c_attn[q]", "attn.c_attn[k]", "attn.c_attn[v]"],
        "o": ["attn.c_proj"],
        "mlp": ["mlp.c_fc", "mlp.c_proj"],
    },
    "t5": {
        "qv": ["SelfAttention.q", "SelfAttention.v", "EncDecAttention.q", "EncDecAttention.v"],
        "qkv": [f"{a}.{m}" for a in ("SelfAttention", "EncDecAttention") for m in "qkv"],
        "o": ["SelfAttention.o", "EncDecAttention.o"],
        "mlp": ["DenseReluDense.wi", "DenseReluDense.wo"],
    },
    "phi3": {
        "qv": ["self_attn.qkv_proj[q]", "self_attn.qkv_proj[v]"],
        "qkv": ["self_attn.qkv_proj[q]", "self_attn.qkv_proj[k]", "self_attn.qkv_proj[v]"],
        "o": ["self_attn.o_proj"],
        "mlp": ["mlp.gate_up_proj", "mlp.down_proj"],
    },
}
for name in ("llama", "qwen2", "mistral"):
    EXPECTED[name] = {
        "qv": ["self_attn.q_proj", "self_attn.v_proj"],
        "qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "o": ["self_attn.o_proj"],
        "mlp": ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
    }


def expected(kind, preset):
    by_preset = EXPECTED[kind]
    return {
        "attention": by_preset["qkv"] + by_preset["o"],
        "all": by_preset["qkv"] + by_preset["o"] + by_preset["mlp"],
    }.get(preset) or by_preset[preset]


@pytest.mark.parametrize("preset", ["qv", "qkv", "attention", "mlp", "all"])
@pytest.mark.parametrize("kind", EXPECTED)
def test_a_preset_is_what_the_modules_are(kind, preset, tiny_model):
    model = tiny_model(kind)
    found = resolve(model, preset)[preset]
    suffixes = expected(kind, preset)
    assert {next((s for s in suffixes if name.endswith(f".{s}")), name) for name in found} == set(suffixes)
    repeats = {"t5": lambda s: 2 if "EncDec" in s else 4}.get(kind, lambda s: 2)
    for suffix in suffixes:
        count = sum(name.endswith(f".{suffix}") for name in found)
        # "output.dense" also ends "attention.output.dense"
        longer = sum(name.endswith(f".{s}") for s in suffixes if s.endswith(f".{suffix}") for name in found)
        assert count - longer == repeats(suffix)


@pytest.mark.parametrize("kind", EXPECTED)
def test_head_and_pooler_are_in_no_preset(kind, tiny_model):
    matched = resolve(tiny_model(kind), "all")["all"]
    assert not [name for name in matched if "pooler" in name or name.split(".")[0] in {"classifier", "score"}]


@pytest.mark.parametrize("kind", EXPECTED)
def test_what_is_matched_can_be_adapted_and_run(kind, tiny_model, tokens):
    attached = attach(tiny_model(kind), [RunConfig(0, targets="all", r=2)])
    ids = tokens()
    logits = attached.model(input_ids=ids).logits
    logits.sum().backward()
    assert logits.shape == (4, 3)
    touched = [t.name for t in attached.trained if t.role == "out" and t.parameter.grad.count_nonzero()]
    assert len(touched) == sum(t.role == "out" for t in attached.trained) == len(attached.coverage["all"])


def test_shapes_of_a_fused_map_are_those_of_its_blocks(tiny_model):
    shapes = linear_shapes(tiny_model("gpt2"), "qv")
    assert shapes["transformer.h.0.attn.c_attn[q]"] == (12, 12)
    assert linear_shapes(tiny_model("gpt2"), ["c_attn"])["transformer.h.0.attn.c_attn"] == (12, 36)
    grouped = linear_shapes(tiny_model("phi3"), "qv")
    assert grouped["model.layers.0.self_attn.qkv_proj[q]"] == (12, 12)
    assert grouped["model.layers.0.self_attn.qkv_proj[v]"] == (12, 6)


def test_a_list_is_taken_literally_and_a_regex_matches_whole_names(tiny_model):
    model = tiny_model("bert")
    assert resolve(model, ["query", "layer.1.output.dense"]) == {
        "query": [f"bert.encoder.layer.{i}.attention.self.query" for i in (0, 1)],
        "layer.1.output.dense": ["bert.encoder.layer.1.output.dense"],
    }
    assert resolve(model, r"re:.*\.1\.attention.*\.(query|key)") == {
        r"re:.*\.1\.attention.*\.(query|key)": [
            f"bert.encoder.layer.1.attention.self.{n}" for n in ("query", "key")
        ]
    }
    assert resolve(model, ["pooler.dense"])["pooler.dense"] == ["bert.pooler.dense"]


def test_only_some_layers(tiny_model):
    model = tiny_model("bert", num_hidden_layers=4)
    for layers, numbers in [("1-2", {1, 2}), ("0,3", {0, 3}), ([2], {2}), (3, {3})]:
        assert {int(n.split(".")[3]) for n in resolve(model, "qv", layers=layers)["qv"]} == numbers
    with pytest.raises(TargetError, match=r"match nothing in layers '7'; they are in layers 0 to 3"):
        resolve(model, "qv", layers="7")
    with pytest.raises(TargetError, match="write numbers and ranges, as 0-3 or 0,2,5"):
        resolve(model, "qv", layers="first")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("atention", "match no linear map of the backbone. Did you mean 'attention'"),
        (["querry"], "Did you mean 'query'"),
        (["classifier"], "The head is always trained and is no target"),
        ("re:encoder", "match no linear map"),
        ("re:(", "is no regular expression"),
        (["query", "q_proj"], "targets 'q_proj' match no"),
    ],
)
def test_a_pattern_that_matches_nothing_says_what_it_could_have_meant(targets, message, tiny_model):
    with pytest.raises(TargetError) as error:
        resolve(tiny_model("bert"), targets)
    assert message in str(error.value)


def test_a_fused_map_is_adapted_as_a_whole_or_in_blocks_not_both(tiny_model):
    with pytest.raises(TargetError, match="c_attn both as a whole and in blocks"):
        attach(tiny_model("gpt2"), [RunConfig(0, r=2, targets=("qv", "c_attn"))])


def test_heads_that_lie_interleaved_cannot_be_adapted_apart(tiny_model):
    model = tiny_model("gpt_neox")
    with pytest.raises(TargetError, match="not one after another as far as is known, so targets 'qv' cannot"):
        resolve(model, "qv")
    assert resolve(model, "qkv")["qkv"] == [f"gpt_neox.layers.{i}.attention.query_key_value" for i in (0, 1)]
    assert len(resolve(model, "all")["all"]) == 8


def test_a_language_models_own_head_is_left_alone(tiny_model, tokens):
    model = tiny_model("llama", causal=True)
    head = model.lm_head
    attached = attach(model, [RunConfig(0, targets="all", r=2)])
    assert attached.model.lm_head is head and not head.weight.requires_grad and not attached.heads
    assert attached.model(input_ids=tokens()).logits.shape == (4, 6, 31)
