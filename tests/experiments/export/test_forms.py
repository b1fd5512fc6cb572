"""What a run exports is what it was: PEFT and transformers alone lose on its test texts what it lost.

The oracle is the run's own predictions.parquet, written by the live model at the end of training.
"""

import json

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from experiments import data
from experiments.artifacts import open_source
from experiments.export import Options, _fidelity, export
from experiments.export.__main__ import main

VARIANTS = ["lora", "rslora", "loraplus", "dora", "adalora"]
BASELINES = {"full": {"lr": 0.005}, "bitfit": {}, "probe": {}, "zero": {}}


def expected(run):
    """The loss of each test example, as the run itself had it."""
    return torch.tensor(pq.read_table(run / "predictions.parquet")["loss"].to_pylist())


@torch.no_grad()
def losses(run, model):
    """The loss of each test example under a model that knows nothing of ablora."""
    source = open_source(run)
    tokenizer = AutoTokenizer.from_pretrained(source.loading.model_options["path"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    raw = data.read(source.spec)
    split = data.encode(raw, tokenizer, source.max_length).splits["test"]
    logits = model.eval()(input_ids=split.input_ids, attention_mask=split.attention_mask).logits.float()
    if logits.dim() == 2:
        return F.cross_entropy(logits, split.labels, reduction="none")
    tokens = F.cross_entropy(logits[:, :-1].mT, split.labels[:, 1:], ignore_index=-100, reduction="none")
    return tokens.sum(1) / (split.labels[:, 1:] != -100).sum(1)


def plain_base(run):
    """The base as anyone loads it, with a head of the right size."""
    source = open_source(run)
    folder = source.loading.model_options["path"]
    if source.kind == "causal":
        return AutoModelForCausalLM.from_pretrained(folder)
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(source.labels))


def exported(run, to, out, **options):
    fidelity = export(open_source(run), to, out, Options(**options))
    assert json.loads((out / "fidelity.json").read_text()) == fidelity
    assert not [p for p in out.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]
    return fidelity


def exact(fidelity):
    return [e["max_relative_difference"] for e in fidelity["compared"] if "max_relative_difference" in e]


@pytest.mark.parametrize("variant", VARIANTS)
def test_peft_says_what_the_run_said(variant, finished, tmp_path):
    peft = pytest.importorskip("peft")
    run = finished(variant)
    fidelity = exported(run, "peft", tmp_path / "out")
    model = peft.PeftModel.from_pretrained(plain_base(run), tmp_path / "out")
    assert torch.allclose(losses(run, model), expected(run), atol=1e-5)
    assert len(exact(fidelity)) == 2 and max(exact(fidelity)) <= 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_merged_checkpoint_needs_transformers_alone(variant, finished, tmp_path):
    run = finished(variant)
    fidelity = exported(run, "merged", tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert torch.allclose(losses(run, model), expected(run), atol=1e-5)
    assert max(exact(fidelity)) <= 1e-5
    assert model.config.id2label == {0: "no", 1: "yes"} and model.config.label2id == {"no": 0, "yes": 1}
    assert model.config.hidden_dropout_prob == 0.1  # of the base, which training had switched off
    text = AutoTokenizer.from_pretrained(tmp_path / "out")("good 5")["input_ids"]
    assert (
        text
        == AutoTokenizer.from_pretrained(open_source(run).loading.model_options["path"])("good 5").input_ids
    )


@pytest.mark.parametrize("variant", ["dora", "adalora", "full", "bitfit", "probe"])
def test_the_base_plus_the_difference_is_the_run(variant, finished, tmp_path):
    run = finished(variant, **BASELINES.get(variant, {}))
    exported(run, "dense-delta", tmp_path / "out")
    check_sum_of_base_and_difference(run, tmp_path / "out")
    about = json.loads((tmp_path / "out/export.json").read_text())
    assert (
        about["format"] == "dense-delta" and about["labels"] == ["no", "yes"] and about["variant"] == variant
    )


def check_sum_of_base_and_difference(run, out):
    model = plain_base(run)
    state = model.state_dict()
    with torch.no_grad():
        for file in out.glob("*.safetensors"):
            for name, tensor in load_file(file).items():
                state[name].copy_(tensor if file.name == "head.safetensors" else state[name] + tensor)
    assert torch.allclose(losses(run, model), expected(run), atol=1e-5)


@pytest.mark.parametrize("variant", BASELINES)
def test_baselines_merge_and_are_no_adapters(variant, finished, tmp_path, capsys):
    run = finished(variant, **BASELINES[variant])
    exported(run, "merged", tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert torch.allclose(losses(run, model), expected(run), atol=1e-5)
    assert main([str(run), str(tmp_path / "no"), "--to", "peft"]) == 2
    assert f"variant={variant} changed parameters of the model itself" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


INSERTED = {  # what PEFT holds of what is put beside the weights, and of which models
    "ia3": ["bert", "gpt2", "llama"],
    "ptuning_v2": ["bert", "gpt2", "llama"],
    "prefix": ["bert", "gpt2"],
    "prompt": ["gpt2", "llama"],
}


@pytest.mark.parametrize(("variant", "model"), [(v, m) for v, models in INSERTED.items() for m in models])
def test_prompts_prefixes_and_vectors_go_to_peft(variant, model, finished, tmp_path):
    peft = pytest.importorskip("peft")
    run = finished(variant, model=model)
    fidelity = exported(run, "peft", tmp_path / "out")
    assert max(exact(fidelity)) <= 1e-5
    theirs = peft.PeftModel.from_pretrained(plain_base(run), tmp_path / "out")
    if variant != "prompt":  # of which PEFT gives the prompt's positions too
        assert torch.allclose(losses(run, theirs), expected(run), atol=1e-5)


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_vectors_become_weights(model, finished, tmp_path):
    run = finished("ia3", model=model)
    exported(run, "merged", tmp_path / "out")
    auto = AutoModelForSequenceClassification if model == "bert" else AutoModelForCausalLM
    assert torch.allclose(losses(run, auto.from_pretrained(tmp_path / "out")), expected(run), atol=1e-5)
    assert max(exact(exported(run, "dense-delta", tmp_path / "delta"))) <= 1e-5
    check_sum_of_base_and_difference(run, tmp_path / "delta")


@pytest.mark.parametrize(
    ("variant", "to", "message"),
    [
        ("houlsby", "peft", "variant=houlsby trained bottleneck adapters, which that format does not hold"),
        ("pfeiffer", "merged", "bottleneck adapters stay a part of every forward pass"),
        ("prefix", "dense-delta", "the keys and values of a prefix stay a part of every forward pass"),
        ("prompt", "peft", "PEFT holds the prompts of language models alone; variant=ptuning_v2 exports"),
    ],
)
def test_what_has_no_such_form_is_refused(variant, to, message, finished, tmp_path, capsys):
    assert main([str(finished(variant)), str(tmp_path / "out"), "--to", to]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("storage", ["fp32", "bf16", "nf4"])
def test_blocks_that_learned_as_a_whole_are_kept_beside_adapters(storage, finished, tmp_path):
    """In full, whatever the storage of the others is."""
    run = finished("lora", targets="all", unfreeze_top=1, storage=storage)
    exported(run, "merged", tmp_path / "out", dtype="fp32")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert torch.allclose(losses(run, model), expected(run), atol=1e-5)
    assert max(exact(exported(run, "dense-delta", tmp_path / "delta"))) <= 1e-5


@pytest.mark.parametrize(("variant", "targets"), [("lora", "all"), ("dora", "qv"), ("adalora", "mlp")])
def test_a_language_model_in_three_forms(variant, targets, finished, tmp_path):
    """GPT-2: weights the other way round, q and v as blocks of one map."""
    peft = pytest.importorskip("peft")
    run = finished(variant, model="gpt2", targets=targets)
    for to in ("peft", "merged", "dense-delta"):
        assert max(exact(exported(run, to, tmp_path / to))) <= 1e-5
    model = peft.PeftModel.from_pretrained(plain_base(run), tmp_path / "peft")
    assert torch.allclose(losses(run, model), expected(run), atol=1e-5)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(losses(run, merged), expected(run), atol=1e-5)
    assert merged.config.use_cache and merged.lm_head.weight is merged.transformer.wte.weight
    check_sum_of_base_and_difference(run, tmp_path / "dense-delta")


def test_a_llama_goes_to_peft_and_back_into_one_piece(finished, tmp_path):
    peft = pytest.importorskip("peft")
    run = finished("dora", model="llama", targets="all")
    exported(run, "peft", tmp_path / "out")
    model = peft.PeftModel.from_pretrained(plain_base(run), tmp_path / "out")
    assert torch.allclose(losses(run, model), expected(run), atol=1e-5)


def test_a_language_model_trained_in_full_takes_its_head_along(finished, tmp_path):
    run = finished("full", model="llama", lr=0.005)
    exported(run, "merged", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.allclose(losses(run, model), expected(run), atol=1e-5)
    assert max(exact(exported(run, "dense-delta", tmp_path / "delta"))) <= 1e-5
    assert load_file(tmp_path / "delta" / "delta.safetensors")["lm_head.weight"].any()


def test_adalora_as_pefts_own_keeps_the_triplets(finished, tmp_path):
    peft = pytest.importorskip("peft")
    run = finished("adalora")
    exported(run, "peft", tmp_path / "own", form="adalora")
    exported(run, "peft", tmp_path / "lora")
    kinds = [
        json.loads((tmp_path / f / "adapter_config.json").read_text())["peft_type"] for f in ("own", "lora")
    ]
    assert kinds == ["ADALORA", "LORA"]
    kept = "adapter_model.safetensors"
    assert (tmp_path / "own" / kept).read_bytes() == (run / "adapter" / kept).read_bytes()
    model = peft.PeftModel.from_pretrained(plain_base(run), tmp_path / "own")
    assert torch.allclose(losses(run, model), expected(run), atol=1e-5)


def test_adalora_in_blocks_has_no_form_of_its_own(finished, tmp_path, capsys):
    run = finished("adalora", model="gpt2")
    assert main([str(run), str(tmp_path / "out"), "--to", "peft", "--form", "adalora"]) == 2
    assert "has no triplets of AdaLoRA to export: its adapter is LORA" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_flags_of_another_form_are_refused(finished, tmp_path, capsys):
    for flags, to in (
        (["--form", "lora"], "merged"),
        (["--dtype", "bf16"], "peft"),
        (["--requantise", "nf4"], "peft"),
    ):
        assert main([str(finished("lora")), str(tmp_path / "out"), "--to", to, *flags]) == 2
        assert f"{flags[0]} says how to write --to" in capsys.readouterr().err


# --- a base in four bits


def quantised(model):
    """The model with its backbone's maps rounded to nf4, by bitsandbytes alone."""
    functional = pytest.importorskip("bitsandbytes").functional
    for module in model.base_model.modules():
        if isinstance(module, torch.nn.Linear):
            packed, state = functional.quantize_4bit(
                module.weight.data, blocksize=64, quant_type="nf4", compress_statistics=True
            )
            module.weight.data = functional.dequantize_4bit(packed, state)
    return model


def test_a_qlora_adapter_fits_the_base_in_four_bits(finished, tmp_path):
    peft = pytest.importorskip("peft")
    run = finished("qlora", targets="all", compute="fp32")
    fidelity = exported(run, "peft", tmp_path / "out")
    model = peft.PeftModel.from_pretrained(quantised(plain_base(run)), tmp_path / "out")
    assert torch.allclose(losses(run, model), expected(run), atol=1e-5)
    on_nf4, on_full, merged = exact(fidelity)
    assert max(on_nf4, merged) <= 1e-5 < on_full
    check = exported(run, "dense-delta", tmp_path / "delta")
    assert max(exact(check)) <= 1e-5


def test_merging_four_bits_goes_to_sixteen_or_as_asked(finished, tmp_path):
    run = finished("qlora", targets="all", compute="fp32")
    fidelity = exported(run, "merged", tmp_path / "bf16")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "bf16")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert exact(fidelity)[0] <= 1e-5 < exact(fidelity)[1] < 0.02
    exported(run, "merged", tmp_path / "fp32", dtype="fp32")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "fp32")
    assert torch.allclose(losses(run, model), expected(run), atol=1e-5)


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("storage", ["nf4", "fp4", "int4"])
def test_four_bits_are_read_back_as_they_were_stored(storage, double_quant, finished, tmp_path):
    run = finished("lora", targets="all", storage=storage, compute="fp32", double_quant=double_quant)
    exported(run, "merged", tmp_path / "out", dtype="fp32")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert torch.allclose(losses(run, model), expected(run), atol=1e-5)


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_requantising_is_asked_for_and_its_error_shown(model, finished, tmp_path, capsys, monkeypatch):
    pytest.importorskip("accelerate")
    run = finished("qlora", model=model, targets="all", compute="fp32")
    assert main([str(run), str(tmp_path / "out"), "--to", "merged", "--requantise", "nf4"]) == 0
    assert "requantised to nf4: logits differ by" in capsys.readouterr().out
    entry = json.loads((tmp_path / "out/fidelity.json").read_text())["compared"][-1]
    listed = [e["model"] for e in json.loads((tmp_path / "out/fidelity.json").read_text())["compared"]]
    assert listed == ["merged, in float32", "transformers with this checkpoint, requantised to nf4"]
    about = json.loads((tmp_path / "out/export.json").read_text())
    assert (about["dtype"], about["requantised_from"]) == ("nf4", "bf16")
    assert 0.001 < entry["weight_error"] < 0.15 and entry["max_relative_difference"] > 1e-4
    kind = AutoModelForSequenceClassification if model == "bert" else AutoModelForCausalLM
    # where a processor has bf16, its kernel would refuse widths as odd as this model's
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    again = kind.from_pretrained(tmp_path / "out")
    assert again.config.quantization_config.load_in_4bit
    assert torch.allclose(losses(run, again), expected(run), atol=0.5)


def test_int4_goes_to_others_merged_or_in_the_codes_that_they_have(finished, tmp_path, capsys):
    pytest.importorskip("accelerate")
    run = finished("lora", targets="all", storage="int4", compute="fp32")
    assert main([str(run), str(tmp_path / "out"), "--to", "merged", "--requantise", "int4"]) == 2
    assert (
        "--requantise int4: transformers loads nf4 and fp4 as bitsandbytes has them"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
    exported(run, "merged", tmp_path / "fp4", requantise="fp4")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "fp4")
    assert again.config.quantization_config.bnb_4bit_quant_type == "fp4"
    on_int4, on_full, skipped, merged = exported(run, "peft", tmp_path / "peft")["compared"]
    assert max(entry["max_relative_difference"] for entry in (on_int4, merged)) <= 1e-5
    assert on_full["max_relative_difference"] > 1e-5
    assert skipped["skipped"].startswith("it has nf4 and fp4 only")


# --- what is measured


def test_without_the_data_it_is_measured_on_random_tokens(finished, tmp_path, monkeypatch):
    run = finished("lora")
    monkeypatch.setattr(
        data, "read", lambda spec: data.read_options("csv", {"path": str(tmp_path / "gone.csv")})
    )
    fidelity = exported(run, "peft", tmp_path / "out")
    assert fidelity["inputs"].startswith("random tokens (") and fidelity["n"] == 8
    assert max(exact(fidelity)) <= 1e-5


def test_without_peft_that_is_said(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(_fidelity.importlib.util, "find_spec", lambda name: None)
    skipped, merged = exported(finished("lora"), "peft", tmp_path / "out")["compared"]
    assert "peft is not installed" in skipped["skipped"] and merged["max_relative_difference"] <= 1e-5


def test_an_export_that_says_something_else_is_not_kept(finished, tmp_path, monkeypatch, capsys):
    from experiments.export import _dense

    changes = _dense.changes
    monkeypatch.setattr(_dense, "changes", lambda a: {name: 2 * t for name, t in changes(a).items()})
    assert main([str(finished("lora")), str(tmp_path / "out"), "--to", "dense-delta"]) == 2
    assert "does not say what lora-bert" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
