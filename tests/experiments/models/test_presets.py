"""Models that have a name: what their files in conf/model say, on tiny random models of their families."""

import re

import pytest
import torch
import transformers

from experiments import models
from experiments.config.groups import CONF, Conf
from experiments.errors import UserError
from experiments.sizing.skeleton import skeleton
from variants import RunConfig, attach

SIZE = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
KEYS = {"num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 64}


def decoder(kind, **options):
    return lambda vocab: getattr(transformers, kind)(**SIZE, **KEYS, vocab_size=vocab, **options)


def encoder(kind, **options):
    return lambda vocab: getattr(transformers, kind)(**SIZE, vocab_size=vocab, **options)


def t5(vocab):
    return transformers.T5Config(
        vocab_size=vocab, d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=4, decoder_start_token_id=0
    )


LLAMA = decoder("LlamaConfig", tie_word_embeddings=True, bos_token_id=0, eos_token_id=0)
GEMMA = decoder("Gemma3TextConfig", sliding_window=8, bos_token_id=0, eos_token_id=0, pad_token_id=0)
ROBERTA = encoder("RobertaConfig", max_position_embeddings=66, pad_token_id=1, type_vocab_size=1)
DEBERTA = encoder("DebertaV2Config", relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"])
MODERN = encoder("ModernBertConfig", pad_token_id=0, local_attention=8, reference_compile=False)
PRESETS = {
    "smollm2": ("causal", LLAMA),
    "qwen3_0_6b": (
        "causal",
        decoder("Qwen3Config", tie_word_embeddings=True, bos_token_id=0, eos_token_id=0),
    ),
    "llama3_2_1b": ("causal", LLAMA),
    "llama3_2_3b": ("causal", LLAMA),
    "gemma3_1b": ("causal", GEMMA),
    "roberta_base": ("classification", ROBERTA),
    "roberta_large": ("classification", ROBERTA),
    "deberta_v3_base": ("classification", DEBERTA),
    "modernbert_base": ("classification", MODERN),
    "t5_base": ("causal", t5),
}
NOT_HUB = {"hf", "minilm", "smollm2_q4"}


@pytest.fixture
def preset(spec_of):
    """What loading reads of a spec with a file of conf/model."""

    def build(name):
        spec = spec_of()
        spec.model = name
        content = Conf(CONF).read("model", name)
        spec.model_options = {key: value for key, value in content.items() if key != "ranges"}
        return spec

    return build


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's cache, empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_every_model_of_the_hub_is_tried_here():
    assert {*Conf(CONF).choices("model")} == {*PRESETS, *NOT_HUB}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_loads_from_the_hubs_cache_and_learns(name, preset, hub, tiny_bert, tiny_gpt2):
    kind, config = PRESETS[name]
    spec = preset(name)
    owner, revision = spec.model_options["name"], spec.model_options["revision"]
    assert re.fullmatch(r"[0-9a-f]{40}", revision)
    folder = hub / f"models--{owner.replace('/', '--')}" / "snapshots" / revision
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        tiny_bert if kind == "classification" else tiny_gpt2
    )
    config = config(len(tokenizer))
    autos = {"t5_base": "AutoModelForSeq2SeqLM"} if name == "t5_base" else {}
    auto = autos.get(name) or {"causal": "AutoModelForCausalLM"}.get(kind, "AutoModel")
    torch.manual_seed(0)
    made = getattr(transformers, auto).from_config(config)
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if spec.model_options["allow_pickle"]:  # as the hub has it
        torch.save(made.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    model, _, info = models.load(spec, kind=kind, n_labels=3)
    assert info.source == f"hub {owner}@{revision}"
    if not spec.model_options["allow_pickle"]:
        shape = skeleton(spec)
        classes = 3 if kind == "classification" else 0
        outside = sum(shape.head(classes)) if classes else shape.outside
        assert shape.body(classes) + outside == info.parameters
    attached = attach(models.clone(model), [RunConfig(0, targets="qv", r=3, alpha=6)], fresh=info.fresh)
    assert len([t for t in attached.trained if not t.role.startswith("head")]) >= 4
    ids = torch.arange(5, 12)[None]
    writes = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    logits = attached.model(input_ids=ids, attention_mask=torch.ones_like(ids), **writes).logits
    logits.logsumexp(-1).sum().backward()
    moved = [t.parameter.grad for t in attached.trained if t.parameter.grad is not None]
    assert moved and all(g.isfinite().all() for g in moved) and any(g.abs().max() > 0 for g in moved)


@pytest.mark.parametrize("name", ["llama3_2_1b", "llama3_2_3b", "gemma3_1b"])
def test_a_gated_preset_says_where_its_terms_are_accepted(name, preset, hub, monkeypatch):
    import httpx
    from huggingface_hub.errors import GatedRepoError

    def refuse(*_, local_files_only=False, **__):
        if local_files_only:
            raise OSError("not here")
        raise GatedRepoError("gated", response=httpx.Response(403, request=httpx.Request("GET", "https://x")))

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    spec = preset(name)
    spec.model_options["revision"] = "e" * 40  # a process asks once for each
    assert "Gated" in Conf(CONF).about("model", name)
    with pytest.raises(UserError, match=rf"{spec.model_options['name']} is gated: .*hf auth login"):
        models.find(spec)


def test_a_preset_that_is_not_here_is_refused_in_a_sentence(preset, hub):
    spec = preset("qwen3_0_6b")
    spec.model_options["revision"] = "e" * 40
    with pytest.raises(
        UserError, match=r"Qwen/Qwen3-0\.6B .* is not on this machine and cannot .* model\.path="
    ):
        models.find(spec)
