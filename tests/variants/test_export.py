"""Adapters at home elsewhere: our model, PEFT with the exported adapter and the merged model agree."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from variants import (
    Base,
    RunConfig,
    attach,
    attach_peft,
    get,
    merge,
    names,
    peft_form,
    read_peft,
    store_backbone,
    write_peft,
)

ADALORA = {"delta": "adalora", "controller": "adalora_budget"}
RUNS = {
    "lora": RunConfig(0, r=2, targets="all"),
    "rslora": RunConfig(0, r=3, targets="qv", axes={"scaling": "alpha_over_sqrt_r"}),
    "dora": RunConfig(0, r=2, targets="all", axes={"delta": "dora"}),
    "adalora": RunConfig(0, r=2, targets="all", axes=ADALORA, steps=9, options={"t_init": 2, "t_final": 3}),
    "pissa": RunConfig(0, r=2, targets="all", axes={"init": "pissa"}),
    "pissa, dora": RunConfig(0, r=2, targets="qv", axes={"init": "pissa", "delta": "dora"}),
    "patterns": RunConfig(
        0,
        r=2,
        targets="all",
        options={
            "rank_pattern": "query|q_proj|q_lin|q|c_fc=3",
            "alpha_pattern": "value|v_proj|v_lin|v|c_proj=5",
        },
    ),
}
MODELS = ["bert", "roberta", "gpt2", "llama", "t5", "distilbert"]


def near(ours, theirs):
    assert (ours - theirs).norm() <= 1e-5 * ours.norm()


def trained(model, *runs, seed=3):
    """Attached and moved off its start, one of the singular values of AdaLoRA's layers dead."""
    attached = attach(model, list(runs))
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for t in attached.trained:
            t.parameter += 0.2 * torch.randn(t.parameter.shape, generator=source)
            if t.role == "diag":
                t.parameter[:, 1] = 0
    attached.after_load()
    return attached


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", RUNS)
def test_peft_loads_it_and_says_the_same(name, kind, tiny_model, tokens, tmp_path):
    peft = pytest.importorskip("peft")
    attached = trained(tiny_model(kind), RUNS[name])
    write_peft(attached, 0, tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(tiny_model(kind), tmp_path / "adapter").eval()
    assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    near(attached.model(input_ids=tokens()).logits, model(input_ids=tokens()).logits)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_peft_loads_its_own_adalora(kind, tiny_model, tokens, tmp_path):
    peft = pytest.importorskip("peft")
    attached = trained(tiny_model(kind), RUNS["adalora"])
    write_peft(attached, 0, tmp_path / "adapter", form="adalora")
    model = peft.PeftModel.from_pretrained(tiny_model(kind), tmp_path / "adapter").eval()
    near(attached.model(input_ids=tokens()).logits, model(input_ids=tokens()).logits)
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["peft_type"] == "ADALORA"


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", RUNS)
def test_the_merged_model_says_the_same(name, kind, tiny_model, tokens):
    attached = trained(tiny_model(kind), RUNS[name])
    before = {key: t.clone() for key, t in attached.model.state_dict().items()}
    merged = merge(attached, 0)
    assert type(merged) is type(attached.model)
    assert merged.state_dict().keys() == tiny_model(kind).state_dict().keys()
    near(attached.model(input_ids=tokens()).logits, merged(input_ids=tokens()).logits)
    assert all(torch.equal(t, before[key]) for key, t in attached.model.state_dict().items())


@pytest.mark.parametrize("name", RUNS)
def test_what_we_write_we_read(name, tiny_model, tokens, tmp_path):
    attached = trained(tiny_model("bert"), RUNS[name])
    write_peft(attached, 0, tmp_path / "adapter", form="adalora" if name == "adalora" else "lora")
    again = attach_peft(tiny_model("bert"), [read_peft(tmp_path / "adapter")])
    near(attached.model(input_ids=tokens()).logits, again.model(input_ids=tokens()).logits)


def test_adapters_of_several_runs_answer_side_by_side(tiny_model, tokens, tmp_path):
    pack = trained(tiny_model("bert"), *(RUNS[name] for name in ("lora", "rslora", "dora")))
    for k in range(3):
        write_peft(pack, k, tmp_path / str(k))
    back = attach_peft(tiny_model("bert"), [read_peft(tmp_path / str(k)) for k in range(3)])
    ids = tokens().repeat(3, 1)
    near(pack.model(input_ids=ids).logits, back.model(input_ids=ids).logits)


def test_blocks_of_gpt2_become_one_adapter_of_the_fused_map(tiny_model, tokens, tmp_path):
    attached = trained(tiny_model("gpt2"), RunConfig(0, r=2, targets="qv"))
    write_peft(attached, 0, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["r"] == 4 and config["fan_in_fan_out"] and len(config["target_modules"]) == 2
    again = attach_peft(tiny_model("gpt2"), [read_peft(tmp_path / "adapter")])
    near(attached.model(input_ids=tokens()).logits, again.model(input_ids=tokens()).logits)


def test_a_compacted_adalora_keeps_the_ranks_that_are_left(tiny_model, tmp_path):
    attached = trained(tiny_model("bert"), RUNS["adalora"])
    dead = attached.layers["bert.encoder.layer.0.attention.self.key"].held[0].delta
    dead.L.data.zero_()
    write_peft(attached, 0, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["r"] == 2  # three singular values, one of them dead
    assert "bert.encoder.layer.0.attention.self.key" not in config["target_modules"]
    tensors = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert {t.shape[0] for key, t in tensors.items() if "lora_A" in key} == {2}


def test_the_weights_of_a_run_are_pairs_before_and_after(tiny_model):
    attached = trained(tiny_model("gpt2"), RunConfig(0, r=2, targets="all"), RunConfig(1, r=2, targets="mlp"))
    pairs = attached.weights(0)
    assert len(pairs) == 8 and len(attached.weights(1)) == 4
    W, changed = pairs["transformer.h.0.attn.c_attn"]
    assert W.shape == changed.shape == (36, 12) and not torch.equal(W, changed)
    full = attach(tiny_model("gpt2"), [RunConfig(0, method="full")])
    with torch.no_grad():
        next(t.parameter for t in full.trained if t.name == "transformer.h.0.attn.c_attn.weight").add_(1)
    W, changed = full.weights(0)["transformer.h.0.attn.c_attn"]
    assert W.shape == (36, 12) and torch.allclose(changed, W + 1)


@pytest.mark.parametrize("method", ["full", "bitfit", "probe", "zero"])
def test_baselines_merge_and_have_no_adapter(method, tiny_model, tokens, tmp_path):
    attached = attach(tiny_model("bert"), [RunConfig(0, method=method)])
    near(attached.model(input_ids=tokens()).logits, merge(attached, 0)(input_ids=tokens()).logits)
    with pytest.raises(ValueError, match="no low-rank adapter to export"):
        write_peft(attached, 0, tmp_path / "adapter")


def test_merging_to_sixteen_bits_leaves_rotary_frequencies_exact(tiny_model):
    """No checkpoint holds them; in 16 bits they would turn far positions by wrong angles."""
    attached = attach(tiny_model("llama", causal=True), [RunConfig(0, r=2)])
    merged = merge(attached, 0, dtype=torch.bfloat16)
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}
    assert torch.equal(merged.model.rotary_emb.inv_freq, attached.model.model.rotary_emb.inv_freq)
    assert merged.model.rotary_emb.inv_freq.dtype == torch.float32


def test_merging_keeps_tied_weights_tied(tiny_model):
    model = tiny_model("gpt2", causal=True)
    merged = merge(trained(model, RunConfig(0, r=2, targets="all")), 0, dtype=torch.bfloat16)
    assert merged.lm_head.weight is merged.transformer.wte.weight
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}
    assert model.transformer.wte.weight.dtype == torch.float32


def test_nothing_is_overwritten_unasked_and_nothing_left_half_written(tiny_model, tmp_path, monkeypatch):
    adapter = tmp_path / "adapter"
    write_peft(trained(tiny_model("bert"), RunConfig(0, r=2)), 0, adapter)
    attached = trained(tiny_model("bert"), RunConfig(0, r=3))
    with pytest.raises(FileExistsError, match="is there already and not empty"):
        write_peft(attached, 0, adapter)
    before = (adapter / "adapter_model.safetensors").read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_peft(attached, 0, adapter, replace=True)
    assert (adapter / "adapter_model.safetensors").read_bytes() == before
    assert [p.name for p in adapter.parent.iterdir()] == ["adapter"]
    monkeypatch.undo()
    write_peft(attached, 0, adapter, replace=True)
    assert (adapter / "adapter_model.safetensors").read_bytes() != before
    shutil.rmtree(adapter)
    adapter.mkdir()
    write_peft(attached, 0, adapter)


@pytest.mark.parametrize("delta", [name for name in names("delta") if get("delta", name).low_rank])
def test_a_quantised_run_exports_what_it_trained(delta, tiny_model, tmp_path):
    run = RunConfig(0, r=2, axes={"delta": delta, "storage": "nf4"})
    attached = trained(tiny_model("bert"), run)
    write_peft(attached, 0, tmp_path / "adapter")
    assert read_peft(tmp_path / "adapter").delta == ("dora" if delta == "dora" else "lora")


@pytest.mark.parametrize(
    ("run", "form"),
    [
        (RUNS["dora"], "lora"),
        (RUNS["adalora"], "adalora"),
        (RunConfig(0, r=2, axes=ADALORA, options={"rank_pattern": "query=3"}), "lora"),
        (RunConfig(0, r=2, targets="all", options={"unfreeze_top": 1}), None),
        (RunConfig(0, method="bitfit"), None),
    ],
)
def test_the_form_that_keeps_what_was_trained(run, form, tiny_model):
    assert peft_form(trained(tiny_model("bert"), run), 0) == form


def test_the_form_of_an_adalora_run_in_blocks_or_with_nothing_left(tiny_model):
    blocks = trained(tiny_model("gpt2"), RunConfig(0, r=2, axes=ADALORA))
    assert peft_form(blocks, 0) == "lora"
    for held, _ in blocks.slots(0).values():
        held.delta.L.data.zero_()
    assert peft_form(blocks, 0) is None


def test_a_module_whose_ranks_are_all_pruned_goes_to_peft_and_back(tiny_model, tokens, tmp_path):
    peft = pytest.importorskip("peft")
    attached = trained(tiny_model("bert"), RUNS["adalora"])
    name = "bert.encoder.layer.0.attention.self.key"
    attached.layers[name].held[0].delta.L.data.zero_()
    write_peft(attached, 0, tmp_path / "adapter", form="adalora")
    adapter = read_peft(tmp_path / "adapter")
    assert adapter.emptied == {name} and name not in adapter.modules
    ours = attached.model(input_ids=tokens()).logits
    near(ours, attach_peft(tiny_model("bert"), [adapter]).model(input_ids=tokens()).logits)
    model = peft.PeftModel.from_pretrained(tiny_model("bert"), tmp_path / "adapter").eval()
    near(ours, model(input_ids=tokens()).logits)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_base_that_is_stored_already_is_used_as_it_is(kind, tiny_model, tokens):
    run = RunConfig(0, r=2, targets="all", axes={"storage": "nf4"})
    stored = tiny_model(kind)
    store_backbone(stored, [run])
    bases = {id(m) for m in stored.modules() if isinstance(m, Base)}
    attached = trained(stored, run)
    assert {id(layer.base) for layer in attached.layers.values()} <= bases
    near(trained(tiny_model(kind), run).model(input_ids=tokens()).logits, stored(input_ids=tokens()).logits)
