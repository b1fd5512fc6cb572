"""What targets mean on the architectures where names mislead: hybrids, state spaces, experts, fused maps."""

import pytest
import torch
import transformers as t

from variants import RunConfig, TargetError, attach, resolve
from variants._core.names import find
from variants._core.targets import layout_of

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20,
    "vocab_size": 31, "pad_token_id": 0, "num_labels": 3,
}  # fmt: skip
HYBRID = {**SMALL, "num_key_value_heads": 2}
CONFIGS = {
    "xlm": lambda: t.XLMConfig(emb_dim=16, n_layers=2, n_heads=4, vocab_size=31, num_labels=3),
    "flaubert": lambda: t.FlaubertConfig(emb_dim=16, n_layers=2, n_heads=4, vocab_size=31, num_labels=3),
    "funnel": lambda: t.FunnelConfig(
        d_model=16, n_head=4, d_head=4, d_inner=20, block_sizes=[1, 1], vocab_size=31, num_labels=3
    ),
    "lfm2": lambda: t.Lfm2Config(**HYBRID, layer_types=["conv", "full_attention"]),
    "jamba": lambda: t.JambaConfig(
        **HYBRID, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
        num_experts=2, mamba_d_state=4, mamba_dt_rank=3, use_mamba_kernels=False,
    ),
    "mamba": lambda: t.MambaConfig(
        hidden_size=16, num_hidden_layers=2, state_size=4, time_step_rank=3, vocab_size=31
    ),
    "qwen3_next": lambda: t.Qwen3NextConfig(
        **HYBRID, head_dim=4, layer_types=["linear_attention", "full_attention"], linear_num_value_heads=4,
        linear_num_key_heads=2, linear_key_head_dim=4, linear_value_head_dim=4, num_experts=2,
        num_experts_per_tok=1, moe_intermediate_size=12, shared_expert_intermediate_size=12,
    ),
    "mixtral": lambda: t.MixtralConfig(**HYBRID, num_local_experts=2),
    "minimax": lambda: t.MiniMaxConfig(
        **HYBRID, head_dim=4, layer_types=["linear_attention", "full_attention"], num_local_experts=2
    ),
    "codegen": lambda: t.CodeGenConfig(n_embd=16, n_head=4, n_layer=2, rotary_dim=4, vocab_size=31),
    "gpt_bigcode": lambda: t.GPTBigCodeConfig(n_embd=16, n_head=4, n_layer=2, vocab_size=31),
    "gpt2": lambda: t.GPT2Config(n_embd=16, n_head=4, n_layer=2, vocab_size=31),
    "phi3": lambda: t.Phi3Config(**HYBRID),
    "modernbert": lambda: t.ModernBertConfig(**SMALL, cls_token_id=1, sep_token_id=2),
}  # fmt: skip


def model_of(kind, auto="AutoModel", **changes):
    """A small model of a kind; Funnel has two backbones, of which a classifier uses the first."""
    torch.manual_seed(0)
    config = CONFIGS[kind]()
    for key, value in changes.items():
        setattr(config, key, value)
    config._attn_implementation = "eager"
    return getattr(t, auto).from_config(config, attn_implementation="eager").eval()


def ends(model, preset):
    """The last two parts of the names that a preset matches, numbers left out."""
    found = resolve(model, preset)[preset]
    return {".".join(part for part in name.split(".")[-2:] if not part.isdigit()) for name in found}


MATCHED = {
    ("xlm", "mlp"): {"lin1", "lin2"},
    ("xlm", "attention"): {"q_lin", "k_lin", "v_lin", "out_lin"},
    ("flaubert", "mlp"): {"lin1", "lin2"},
    ("funnel", "mlp"): {"ffn.linear_1", "ffn.linear_2"},
    ("funnel", "qv"): {"attention.q_head", "attention.v_head"},
    ("funnel", "attention"): {f"attention.{n}" for n in ("q_head", "k_head", "v_head", "post_proj")},
    ("lfm2", "qv"): {"self_attn.q_proj", "self_attn.v_proj"},
    ("lfm2", "attention"): {f"self_attn.{n}" for n in ("q_proj", "k_proj", "v_proj", "out_proj")},
    ("lfm2", "mlp"): {"feed_forward.w1", "feed_forward.w2", "feed_forward.w3"},
    ("jamba", "qv"): {"self_attn.q_proj", "self_attn.v_proj"},
    ("jamba", "mlp"): {f"feed_forward.{n}" for n in ("gate_proj", "up_proj", "down_proj")},
    ("qwen3_next", "qkv"): {f"self_attn.{n}" for n in ("q_proj", "k_proj", "v_proj")},
    ("qwen3_next", "mlp"): {f"shared_expert.{n}" for n in ("gate_proj", "up_proj", "down_proj")},
    ("qwen3_next", "attention"): {
        *(f"self_attn.{n}" for n in ("q_proj", "k_proj", "v_proj", "o_proj")),
        *(f"linear_attn.{n}" for n in ("in_proj_qkvz", "in_proj_ba", "out_proj")),
    },
}  # fmt: skip


@pytest.mark.parametrize(("kind", "preset"), MATCHED)
def test_a_preset_goes_by_what_the_maps_are(kind, preset):
    auto = "AutoModelForSequenceClassification" if kind == "funnel" else "AutoModel"
    assert ends(model_of(kind, auto), preset) == MATCHED[kind, preset]


def test_other_mixers_are_in_all_and_nowhere_else():
    model = model_of("lfm2")
    assert ends(model, "all") - ends(model, "attention") - ends(model, "mlp") == {
        "conv.in_proj",
        "conv.out_proj",
    }


def own_projections(model, module, monkeypatch):
    """The q, k and v that reach attention in the first layer, (tokens, width) each."""
    seen = []
    name = type(module).__module__
    eager = __import__(name, fromlist=["eager_attention_forward"])
    original = eager.eager_attention_forward

    def watched(self, query, key, value, *args, **kwargs):
        seen.append((query, key, value))
        return original(self, query, key, value, *args, **kwargs)

    monkeypatch.setattr(eager, "eager_attention_forward", watched)
    model(input_ids=torch.tensor([[5, 9, 11, 7]]))
    return [x[0].transpose(0, 1).flatten(1) for x in seen[0]]


FUSED = {
    "gpt2": ("c_attn", (4, 4, 4)),
    "phi3": ("qkv_proj", (4, 2, 2)),
    "modernbert": ("Wqkv", (4, 4, 4)),
    "gpt_bigcode": ("c_attn", (4, 1, 1)),
}


@pytest.mark.parametrize("kind", FUSED)
def test_the_rows_of_a_fused_map_are_the_models_own_q_k_and_v(kind, monkeypatch):
    leaf, heads = FUSED[kind]
    model = model_of(kind)
    name = next(n for n, _ in model.named_modules() if n.endswith(leaf))
    made = []
    model.get_submodule(name).register_forward_hook(lambda module, inputs, output: made.append(output))
    attention = model.get_submodule(name.rpartition(".")[0])
    own = own_projections(model, attention, monkeypatch)
    targets = {t.block: t for t in find(layout_of(model), "qkv")["qkv"] if t.module == name}
    assert [targets[b].d_out for b in "qkv"] == [4 * n for n in heads]
    for block, theirs in zip("qkv", own, strict=True):
        ours = made[0].reshape(4, -1)[:, targets[block].rows]
        # rotary positions turn q and k; the first token stands at position 0, which turns nothing
        rows = slice(None) if block == "v" else slice(0, 1)
        torch.testing.assert_close(ours[rows], theirs[rows])


@pytest.mark.parametrize(
    ("kind", "changes"), [("codegen", {}), ("gpt_bigcode", {"multi_query": False}), ("minimax", {})]
)
def test_a_fused_map_whose_rows_are_interleaved_is_adapted_whole_or_not_at_all(kind, changes):
    model = model_of(kind, **changes)
    with pytest.raises(TargetError, match="not one after another as far as is known, so targets 'qv' cannot"):
        resolve(model, "qv")
    assert not [name for name in resolve(model, "qkv")["qkv"] if "[" in name]


class Reads(torch.nn.Module):
    """A model that reads the weight of a map itself, calls another without a gradient, and uses a third."""

    main_input_name = "input_ids"

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.cut, self.used = (torch.nn.Linear(6, 6) for _ in range(3))

    def __init__(self):
        super().__init__()
        self.config = t.PretrainedConfig()
        self.embed = torch.nn.Embedding(9, 6)
        self.blocks = torch.nn.ModuleList([self.Block(), self.Block()])

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block.used(x @ block.read.weight.mT) + block.cut(x).detach()
        return (x,)


def test_maps_whose_output_teaches_nothing_are_found_by_running_the_model():
    attached = attach(Reads(), [RunConfig(0, targets=("read", "cut", "used"), r=2)])
    assert list(attached.layers) == ["blocks.0.used", "blocks.1.used"]
    assert attached.coverage["read"] == attached.coverage["cut"] == []
    (note,) = attached.notes(0)
    assert note.startswith("4 of the targets are not adapted (read, cut): the model's forward pass")
    with pytest.raises(TargetError, match="name only maps that Reads has no use for"):
        attach(Reads(), [RunConfig(0, targets=("read",), r=2)])


@pytest.mark.parametrize(("kind", "auto"), [("mamba", "AutoModelForCausalLM"), ("jamba", "AutoModel")])
def test_every_adapter_on_a_state_space_gets_a_gradient(kind, auto):
    attached = attach(model_of(kind, auto), [RunConfig(0, targets="all", r=2)])
    out = attached.model(input_ids=torch.tensor([[3, 4, 5, 6, 7, 8]]))[0]
    out.square().sum().backward()
    assert attached.layers
    for trained in attached.trained:
        if trained.role == "out":
            assert trained.parameter.grad is not None and trained.parameter.grad.count_nonzero(), trained.name


def test_stacks_of_experts_are_said_to_be_neither_adapted_nor_quantised():
    model = model_of("mixtral", "AutoModelForCausalLM")
    experts = sum(p.numel() for n, p in model.model.named_parameters() if "experts." in n)
    share = experts / sum(p.numel() for p in model.model.parameters())
    attached = attach(model, [RunConfig(0, targets="all", r=2)])
    (note,) = attached.notes(0)
    assert note.startswith(f"{experts:,} parameters, {share:.0%} of the backbone, are stacks of matrices")
    attached = attach(
        model_of("mixtral", "AutoModelForCausalLM"), [RunConfig(0, r=2, axes={"storage": "bf16"})]
    )
    assert attached.notes(0)[0].endswith("not adapted and stay as they are where the storage is bf16")
    attached = attach(model_of("mixtral", "AutoModelForCausalLM"), [RunConfig(0, r=2)])
    assert attached.notes(0) == []  # q and v alone: nobody expects the experts to be adapted
