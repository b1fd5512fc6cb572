"""A base loaded streamed into its storage is the one that was loaded dense and stored afterwards."""

import json

import pytest
import torch
from torch import nn

from experiments import models
from experiments.bench.fake import specs_of
from experiments.errors import UserError
from experiments.training.loader import Loader
from variants import AdaptedLinear, RunConfig, attach, backbone_linears, loads_stored, merge

pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize("shards", ["1GB", "20KB", "pickle"])
@pytest.mark.parametrize(
    ("name", "kind"), [("tiny_bert", "classification"), ("tiny_gpt2", "causal"), ("tiny_llama", "causal")]
)
def test_weights_are_read_from_the_files_by_the_names_of_the_model(
    name, kind, shards, spec_of, request, tmp_path
):
    spec = spec_of(request.getfixturevalue(name))
    dense, *_ = load(spec, None, kind)
    if shards == "pickle":
        dense.config.save_pretrained(tmp_path)
        torch.save(dense.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        dense.save_pretrained(tmp_path, max_shard_size=shards)
    spec = spec_of(tmp_path)
    spec.model_options["allow_pickle"] = shards == "pickle"
    maps = {n: m.weight.clone() for n, m in backbone_linears(dense).items()}
    for wanted, read in zip(maps.values(), models.weights(spec, list(maps)), strict=True):
        assert torch.equal(wanted, read)
    with pytest.raises(UserError, match=r"holds no weight of nothing\.here by that name"):
        list(models.weights(spec, ["nothing.here"]))


def run(storage="nf4", **options):
    return RunConfig(0, targets="all", r=3, axes={"storage": storage}, options=options)


def load(spec, streamed, kind="classification"):
    return models.load(spec, kind=kind, n_labels=3 if kind == "classification" else None, streamed=streamed)


@pytest.mark.parametrize("storage", ["nf4", "fp4", "int4", "bf16"])
@pytest.mark.parametrize(
    ("name", "kind"), [("tiny_bert", "classification"), ("tiny_gpt2", "causal"), ("tiny_llama", "causal")]
)
def test_it_is_the_base_that_was_stored_after_loading(name, kind, storage, spec_of, request):
    spec = spec_of(request.getfixturevalue(name))
    dense, tokenizer, info = load(spec, None, kind)
    model, _, told = load(spec, run(storage), kind)
    assert told == info and told.parameters == sum(p.numel() for p in dense.parameters())
    linears = backbone_linears(model)
    assert linears.keys() == backbone_linears(dense).keys()
    assert all(isinstance(m, AdaptedLinear) and m.storage == storage for m in linears.values())
    first, second = (
        attach(models.clone(m), [run(storage)], fresh=info.fresh).model.eval() for m in (dense, model)
    )
    batch = tokenizer(["abc", "a longer text"], padding=True, return_tensors="pt")
    asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    assert torch.equal(first(**asked).logits, second(**asked).logits)
    assert not any(p.requires_grad for p in model.parameters())


def test_what_is_no_map_of_the_backbone_stays_dense(tiny_bert, spec_of):
    model, *_ = load(spec_of(tiny_bert), run())
    assert type(model.classifier) is nn.Linear
    assert model.bert.embeddings.word_embeddings.weight.dtype == torch.float32
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert norms and {m.weight.dtype for m in norms} == {torch.float32}
    assert not hasattr(model, "hf_quantizer") and "quantization_config" not in model.config.to_dict()


def test_runs_share_it_and_its_scales(tiny_bert, spec_of):
    model, _, info = load(spec_of(tiny_bert), run())
    one, two = (attach(models.clone(model), [run()], fresh=info.fresh) for _ in range(2))
    for name, layer in one.layers.items():
        assert layer is not two.layers[name] and layer.base is two.layers[name].base


def test_it_trains_with_gradient_checkpointing_and_merges(tiny_llama, spec_of):
    model, _, info = load(spec_of(tiny_llama), run())
    ids = torch.tensor([[3, 9, 12, 4], [8, 2, 2, 11]])
    found = []
    for checkpointing in (False, True):
        attached = attach(models.clone(model), [run()], fresh=info.fresh)
        if checkpointing:
            attached.model.gradient_checkpointing_enable({"use_reentrant": False})
        with torch.no_grad():
            for t in attached.trained:
                t.parameter.fill_(0.05)
        attached.model.train()
        loss = attached.model(input_ids=ids).logits.square().mean()
        loss.backward()
        found.append([t.parameter.grad.clone() for t in attached.trained])
        merged = merge(attached, 0, dtype=torch.float32).eval()
        exact = attached.model.eval()(input_ids=ids).logits
        torch.testing.assert_close(merged(input_ids=ids).logits, exact, rtol=1e-4, atol=1e-4)
    assert all(g.count_nonzero() for g in found[0])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_same_storage_is_loaded_once(tiny_bert, toy_csv):
    loader = Loader()

    def base(*words):
        where = (
            f"model.path={tiny_bert}",
            f"dataset.path={toy_csv}",
            "dataset.text=text",
            "dataset.label=label",
        )
        [spec] = specs_of("r=2", "model=hf", "dataset=csv", *where, *words)
        return loader(spec).model

    first = base("variant=qlora", "variant.double_quant=true")
    again = base("variant=qlora", "variant.double_quant=true", "variant.dropout=0.2")
    assert again is first  # dropout is no option of the storage
    assert base("variant=qlora", "variant.double_quant=false") is not first
    assert base("variant=lora") is not first


def test_a_base_in_one_storage_is_refused_for_another(tiny_bert, spec_of):
    model, *_ = load(spec_of(tiny_bert), run())
    with pytest.raises(ValueError, match="was loaded in nf4, and this run asks for bf16: load the base"):
        attach(models.clone(model), [run("bf16")])


def test_where_blocks_are_trained_the_base_is_loaded_dense():
    assert loads_stored(run()) and loads_stored(run("bf16"))
    assert not loads_stored(run("fp32")) and not loads_stored(run(unfreeze_top=1))


def test_a_file_that_does_not_fit_is_told_by_name(tiny_bert, spec_of, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] += 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"cannot be loaded|do not fit"):
        load(spec_of(folder), run())


def test_while_loading_the_dense_model_is_never_held(tmp_path, spec_of, tiny_llama):
    """The file is in 16 bits, so that a weight that is read has to be allocated; mapped, it counts too."""
    import shutil

    from transformers import LlamaConfig, LlamaForCausalLM

    from experiments.bench.memory import allocated

    shutil.copytree(tiny_llama, tmp_path, dirs_exist_ok=True)
    vocabulary = json.loads((tiny_llama / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=128, intermediate_size=344, num_hidden_layers=8,
        num_attention_heads=4, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path)
    spec, loaded = spec_of(tmp_path), []
    found = allocated(lambda: loaded.append(load(spec, run(), "causal")))
    full = 4 * loaded[0][2].parameters
    assert full * 4.127 / 32 < found.held < 0.25 * full
    assert found.total < (0.5 + 0.3) * full  # the file, and what is stored with one map in the making
