"""Trained parameters against closed forms, on the shapes of the papers' models (no weights are made)."""

from collections import Counter

import pytest
import torch

from variants import RunConfig, attach, names
from variants._core import costs
from variants._core.targets import find


def meta(config, kind="AutoModelForSequenceClassification"):
    import transformers

    with torch.device("meta"):
        return getattr(transformers, kind).from_config(config)


def lora_count(model, targets, r):
    return sum(r * (t.d_in + t.d_out) for found in find(model, targets).values() for t in found)


def test_roberta_base_and_large_as_in_the_lora_paper():
    from transformers import RobertaConfig

    base = meta(RobertaConfig())
    large = meta(
        RobertaConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    )
    assert lora_count(base, "qv", 8) == 294_912
    assert lora_count(large, "qv", 8) == 786_432


def test_gpt2_medium_and_large_with_separate_factors_for_q_and_v():
    from transformers import GPT2Config

    medium = meta(GPT2Config(n_embd=1024, n_layer=24, n_head=16), "AutoModelForCausalLM")
    large = meta(GPT2Config(n_embd=1280, n_layer=36, n_head=20), "AutoModelForCausalLM")
    assert lora_count(medium, "qv", 4) == 393_216
    assert lora_count(large, "qv", 4) == 737_280


@pytest.mark.parametrize(("r", "count"), [(2, 331_776), (8, 1_327_104)])
def test_deberta_v3_base_on_all_six_matrices(r, count):
    from transformers import DebertaV2Config

    config = DebertaV2Config(
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        relative_attention=True,
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
    )
    assert lora_count(meta(config), "all", r) == count


def extra(delta, d_in, d_out, r):
    """Trained parameters of one map, as the papers count them."""
    small, lora = min(d_in, d_out), r * (d_in + d_out)
    r0, n = -(-3 * r // 2), -(-small // r)
    (a, b), (c, d) = DIVISORS[d_in], DIVISORS[d_out]
    oft = d_in // r * (r * (r - 1) // 2) + (d_in % r) * (d_in % r - 1) // 2
    return {
        "lora": lora,
        "dora": lora + d_out,
        "adalora": r0 * (d_in + d_out) + r0,
        "lora_fa": r * d_out,
        "vera": r + d_out,
        "lora_xs": r * r,
        "tinylora": 64,
        "miss": r * d_out,
        "delora": lora + 1,
        "hira": lora,
        "fourierft": min(125 * r, d_in * d_out),
        "randlora": n * (r + small),
        "gralora": lora,
        "loha": 2 * lora,
        "lokr": a * c + r * (b + d),
        "oft": oft,
        "boft": 2 * oft,  # at these sizes what the second turn leaves over is one block, as in the first
    }[delta]


DIVISORS = {12: (3, 4), 20: (4, 5)}


HEAD = 12 * 3 + 3


@pytest.mark.parametrize("delta", names("delta"))
@pytest.mark.parametrize("targets", ["qv", "all"])
def test_every_delta_trains_what_its_formula_says(delta, targets, tiny_model):
    model = tiny_model("bert")
    shapes = [(t.d_in, t.d_out) for found in find(model, targets).values() for t in found]
    attached = attach(model, [RunConfig(0, targets=targets, r=3, axes={"delta": delta})])
    assert attached.count(0) == sum(extra(delta, *shape, 3) for shape in shapes) + HEAD
    assert attached.summary(0)["trainable_parameters"] == attached.count(0)


@pytest.mark.parametrize("delta", names("delta"))
def test_a_plan_counts_what_a_model_trains_and_nothing_at_rank_zero_that_needs_one(delta, tiny_model):
    attached = attach(tiny_model("bert"), [RunConfig(0, targets="all", r=2, axes={"delta": delta})])
    by_role, counted = Counter(), Counter()
    for t in attached.trained:
        by_role[t.role] += t.parameter[0].numel() * (".deltas." in t.name)
    rank = costs.initial_rank(delta, 2, {})
    for layer in attached.layers.values():
        counted.update(costs.delta_sizes(delta, rank, layer.base.d_in, layer.base.d_out))
    assert counted == +by_role
    whatever_the_rank = {"vera": 5, "dora": 5, "delora": 1, "lokr": 1, "tinylora": 64}
    assert sum(costs.delta_sizes(delta, 0, 7, 5).values()) == whatever_the_rank.get(delta, 0)


def test_counts_are_the_papers(tiny_model):
    """RoBERTa-base on q and v: VeRA's 0.043M at r=1024 (here the 24 maps alone), LoRA-XS' 15k at r=25."""
    roberta = [(768, 768)] * 24
    total = lambda delta, r: sum(sum(costs.delta_sizes(delta, r, *shape).values()) for shape in roberta)  # noqa: E731
    assert total("vera", 1024) == 24 * (768 + 1024) == 43_008
    assert total("lora_xs", 25) == 24 * 625 == 15_000
    assert total("fourierft", 8) == 24_000
    assert total("lora_fa", 8) == total("lora", 8) // 2


def test_in_a_pack_each_run_counts_its_own(tiny_model):
    runs = [RunConfig(0, r=2), RunConfig(1, r=3, targets="all"), RunConfig(2, r=2, axes={"delta": "dora"})]
    pack = attach(tiny_model("bert"), runs)
    assert [pack.count(k) for k in range(3)] == [attach(tiny_model("bert"), [run]).count(0) for run in runs]


def test_the_baselines_train_what_they_say(tiny_model):
    def count(method):
        return attach(tiny_model("bert"), [RunConfig(0, method=method)]).count(0)

    backbone = tiny_model("bert").bert
    biases = sum(p.numel() for name, p in backbone.named_parameters() if name.endswith("bias"))
    assert count("full") == sum(p.numel() for p in backbone.parameters()) + HEAD
    assert count("bitfit") == biases + HEAD
    assert count("probe") == HEAD
    assert count("zero") == 0


def test_ranks_and_alphas_may_differ_by_pattern(tiny_model):
    options = {"rank_pattern": {r"layer\.1\..*query": 5}, "alpha_pattern": "value=8"}
    attached = attach(tiny_model("bert"), [RunConfig(0, r=3, alpha=6.0, options=options)])
    summary = attached.summary(0)
    prefix = "bert.encoder.layer"
    assert summary["rank"] == {
        f"{prefix}.{i}.attention.self.{n}": 5 if (i, n) == (1, "query") else 3
        for i in (0, 1)
        for n in ("query", "value")
    }
    assert summary["scale"][f"{prefix}.0.attention.self.value"] == 8 / 3
    assert summary["scale"][f"{prefix}.1.attention.self.query"] == 6 / 5


@pytest.mark.parametrize("option", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize(
    "pattern", ["query=nan", "query=inf", "query=4,value=", "=3", "4", "(=3", {"query": None}]
)
def test_a_pattern_that_cannot_be_read_is_refused(option, pattern, tiny_model):
    with pytest.raises(ValueError, match=f"{option} .* cannot be read: write patterns of module names"):
        attach(tiny_model("bert"), [RunConfig(0, r=3, options={option: pattern})])
