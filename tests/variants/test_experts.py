"""Experts kept as stacks of matrices: each is adapted as a map of its own, with PEFT's numbers."""

import copy
import warnings

import pytest
import torch
import transformers as t
from torch.testing import assert_close

from variants import RunConfig, TargetError, attach, peft_form, write_peft
from variants._core.merge import merge
from variants._core.registry import names

SIZES = {
    "hidden_size": 15, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 6, "intermediate_size": 11, "vocab_size": 31, "num_experts_per_tok": 2, "pad_token_id": 0,
}  # fmt: skip
CONFIGS = {
    "mixtral": lambda **own: t.MixtralConfig(**SIZES | own, num_local_experts=3),
    "qwen3_moe": lambda **own: t.Qwen3MoeConfig(**SIZES | own, num_experts=3, moe_intermediate_size=7),
    "olmoe": lambda **own: t.OlmoeConfig(**SIZES | {"hidden_size": 12} | own, num_experts=3),
    "gpt_oss": lambda **own: t.GptOssConfig(**SIZES | own, num_local_experts=3),  # transposed, with biases
}
IDS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 11, 12], [2, 30, 1, 7, 7], [5, 5, 20, 21, 22]])


def model_of(kind, dtype=torch.float64, kernel="eager", **own):
    torch.manual_seed(0)
    config = CONFIGS[kind](**own)
    model = t.AutoModelForCausalLM.from_config(config).to(dtype).eval()
    model.config._experts_implementation = kernel
    return model


def attached_to(kind, *runs, moved=True, **own):
    """A model and runs attached to a copy of it, away from B = 0."""
    plain = model_of(kind, **own)
    attached = attach(copy.deepcopy(plain), list(runs))
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for trained in attached.trained if moved else ():
            p = trained.parameter
            p += 0.2 * torch.randn(p.shape, generator=source, dtype=p.dtype)
    attached.after_load()
    attached.before_step()
    return plain, attached


def run(seed=0, targets="experts", r=2, dropout=0.0, options=None, **axes):
    return RunConfig(seed, targets=targets, r=r, dropout=dropout, axes=axes, options=options or {})


def loss_of(model, ids=IDS):
    logits = model(input_ids=ids).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


AS = {"lora": ("alpha_over_r", 1), "rslora": ("alpha_over_sqrt_r", 1), "loraplus": ("alpha_over_r", 8)}


@pytest.mark.parametrize("variant", AS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_experts_train_as_peft_trains_target_parameters(kind, variant):
    scaling, ratio = AS[variant]
    peft = pytest.importorskip("peft")
    plain, attached = attached_to(kind, run(r=3, scaling=scaling))
    config = peft.LoraConfig(
        r=3, lora_alpha=16, use_rslora=scaling != "alpha_over_r", target_modules=[],
        target_parameters=["experts.gate_up_proj", "experts.down_proj"],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(plain, config)
    pairs = []
    for name, stack in attached.layers.items():
        place, leaf = name.rsplit(".", 1)
        wrapper = theirs.base_model.model.get_submodule(place)
        while wrapper.parameter_name != leaf:
            wrapper = wrapper.base_layer
        A, B = (factor["default"].weight for factor in (wrapper.lora_A, wrapper.lora_B))
        for e, (_, delta, _) in enumerate(stack.held):
            A.data.view(3, 3, -1)[e] = delta.A.detach()[0]  # (experts, r, d_in)
            B.data.view(len(B), 3, 3)[..., e] = delta.B.detach()[0]  # (d_out, r, experts)
            pairs.append((delta, A, B, e))
    ours, peft_s = (
        [[d.A, d.B] for d, *_ in pairs],
        [[A, B] for _, A, B, e in pairs if e == 0],
    )
    optimisers = [
        torch.optim.AdamW(
            [{"params": [A for A, _ in both]}, {"params": [B for _, B in both], "lr": ratio * 1e-2}], lr=1e-2
        )
        for both in (ours, peft_s)
    ]
    first = float(loss_of(theirs).detach())
    for step in range(30):
        losses = [loss_of(model) for model in (attached.model, theirs)]
        assert_close(*losses, rtol=1e-9, atol=1e-9)
        for loss in losses:
            loss.backward()
        for delta, A, B, e in pairs if step in (0, 29) else ():
            assert_close(delta.A.grad[0], A.grad.view(3, 3, -1)[e], rtol=1e-6, atol=1e-9)
            assert_close(delta.B.grad[0], B.grad.view(len(B), 3, 3)[..., e], rtol=1e-6, atol=1e-9)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
    assert losses[0] < first - 0.1


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("delta", sorted({*names("delta")} - {"none"}))
def test_any_delta_on_experts_is_what_its_merged_model_computes(kind, delta):
    plain, attached = attached_to(kind, run(delta=delta, targets=("q_proj", "experts")))
    out = attached.model(input_ids=IDS).logits
    assert (out - plain(input_ids=IDS).logits).abs().max() > 1e-3
    assert_close(merge(attached, 0)(input_ids=IDS).logits, out, rtol=1e-9, atol=1e-9)
    out.square().sum().backward()
    for trained in attached.trained:
        assert trained.parameter.grad is not None and trained.parameter.grad.any(), trained.name


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_the_model_starts_as_it_was_and_a_pack_computes_what_its_runs_do_alone(kind):
    runs = [run(0, r=3), run(1, delta="dora", targets=("all", "experts")), run(2, targets="qv")]
    plain, attached = attached_to(kind, *runs, moved=False)
    ids = torch.cat([IDS, IDS[:2]])
    assert_close(attached.model(input_ids=ids).logits, plain(input_ids=ids).logits)
    _, attached = attached_to(kind, *runs)
    out = attached.model(input_ids=ids).logits
    for k, own in enumerate(runs):
        _, alone = attached_to(kind, own, moved=False)
        alone.put_back(0, attached.kept(k))
        alone.before_step()
        assert_close(alone.model(input_ids=ids[2 * k : 2 * k + 2]).logits, out[2 * k : 2 * k + 2])


@pytest.mark.parametrize("kernel", ["batched_mm", "grouped_mm"])
@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_the_kernels_of_transformers_see_the_adapted_matrices(kind, kernel):
    own = {"dtype": torch.float32, "hidden_size": 20, "intermediate_size": 12}  # 16 bytes, as the kernel asks
    outs = [
        attached_to(kind, run(0), run(1), kernel=each, **own)[1].model(input_ids=IDS).logits
        for each in ("eager", kernel)
    ]
    assert_close(*outs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("targets", ["experts", ("q_proj", "experts"), ("down_proj",)])
def test_peft_reads_an_export_and_computes_the_same(tmp_path, kind, targets):
    peft = pytest.importorskip("peft")
    options = {"rank_pattern": "0.mlp.experts.down_proj=3"}
    plain, attached = attached_to(kind, run(targets=targets, options=options))
    out = attached.model(input_ids=IDS).logits
    write_peft(attached, 0, tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter")
    assert_close(theirs(input_ids=IDS).logits, out, rtol=1e-10, atol=1e-10)
    assert peft_form(attached, 0) is None  # the run's own folder keeps plain tensors by name


def test_an_export_of_unequal_ranks_is_filled_up_and_one_with_magnitudes_refused(tmp_path):
    peft = pytest.importorskip("peft")
    plain, attached = attached_to("mixtral", run(delta="adalora", r=3))
    with torch.no_grad():
        for n, stack in enumerate(attached.layers.values()):
            stack.held[n % 3].delta.L[0, :2] = 0  # pruned
    write_peft(attached, 0, tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter")
    assert_close(theirs(input_ids=IDS).logits, attached.model(input_ids=IDS).logits)
    _, attached = attached_to("mixtral", run(delta="dora"))
    with pytest.raises(ValueError, match="PEFT adapts experts by A and B alone; export it merged"):
        write_peft(attached, 0, tmp_path / "other")


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_an_exported_difference_is_added_to_the_stacks_of_the_base(kind):
    from experiments.export._dense import changes

    plain, attached = attached_to(kind, run(delta="dora", targets=("q_proj", "experts")))
    with torch.no_grad():
        for name, change in changes(attached).items():
            plain.get_parameter(name).add_(change)
    assert_close(plain(input_ids=IDS).logits, attached.model(input_ids=IDS).logits, rtol=1e-5, atol=1e-5)


def test_r_is_shared_out_among_the_experts_of_a_token():
    options = {"expert_rank": "active"}
    _, attached = attached_to("mixtral", run(targets=("q_proj", "experts"), r=4, options=options))
    facts = attached.summary(0)
    ranks = facts["rank"]
    assert len(ranks) == 2 + 2 * 2 * 3 == len(facts["matched"])
    assert {name: r for name, r in ranks.items() if "experts" not in name} == dict.fromkeys(
        [f"model.layers.{n}.self_attn.q_proj" for n in (0, 1)], 4
    )
    assert {r for name, r in ranks.items() if "experts" in name} == {2}
    per_expert = 2 * (15 + 2 * 11) + 2 * (11 + 15)  # gate_up_proj and down_proj
    assert attached.count(0) == 2 * (4 * (15 + 12) + 3 * per_expert)


REFUSED = {
    "formed": (run(dropout=0.1), "set variant.dropout=0"),
    "sees": (run(options={"init": "eva"}), "choose init=kaiming"),
    "multiple": (run(r=3, options={"expert_rank": "active"}), "choose a multiple of 2"),
    "none": (run(targets="qv", options={"expert_rank": "active"}), r"targets=\[all,experts\]"),
    "rank": (run(r=12), "1 to 11 is possible"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_experts_cannot_do_is_refused_with_what_they_can(case):
    wrong, said = REFUSED[case]
    with pytest.raises(ValueError, match=said):
        attached_to("mixtral", wrong)


def test_a_model_without_stacks_has_no_experts():
    config = t.LlamaConfig(**SIZES | {"hidden_size": 12, "num_experts_per_tok": None})
    with pytest.raises(TargetError, match="match no stack of experts"):
        attach(t.AutoModelForCausalLM.from_config(config), [run()])


def test_experts_stay_as_they_are_where_the_storage_is_short_and_that_is_said():
    _, attached = attached_to("mixtral", run(storage="bf16"))
    (note,) = attached.notes(0)
    assert note.endswith("they are adapted and stay as they are where the storage is bf16")
    assert {stack.base.dtype for stack in attached.layers.values()} == {torch.float64}
