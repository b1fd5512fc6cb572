"""Models of unusual kinds: loaded as they are, or refused in a sentence before anything starts."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from experiments import models
from experiments.errors import UserError
from experiments.sizing.skeleton import skeleton

TINY = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}


def saved(folder, config, tokenizer, *, auto=transformers.AutoModel):
    torch.manual_seed(0)
    auto.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def byte_t5(tmp_path):
    """ByT5: a tokenizer of bytes, which has no vocabulary file."""
    config = transformers.T5Config(
        vocab_size=384, d_model=24, d_ff=40, d_kv=12, num_heads=2, num_layers=2, decoder_start_token_id=0
    )
    return saved(tmp_path / "byte_t5", config, transformers.ByT5Tokenizer())


@pytest.fixture
def canine(tmp_path):
    """CANINE: a tokenizer of characters."""
    config = transformers.CanineConfig(**TINY, num_hash_buckets=64, max_position_embeddings=64)
    return saved(tmp_path / "canine", config, transformers.CanineTokenizer(model_max_length=64))


@pytest.mark.parametrize("kind", ["byte_t5", "canine"])
def test_a_tokenizer_that_needs_no_vocabulary_is_one(kind, request, spec_of):
    folder = request.getfixturevalue(kind)
    assert not {"tokenizer.json", "vocab.txt", "vocab.json"} & {path.name for path in folder.iterdir()}
    model, tokenizer, _ = models.load(spec_of(folder), kind="classification", n_labels=3)
    batch = tokenizer(["ab", "words"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert logits.shape == (2, 3) and logits.isfinite().all()


def test_a_vocabulary_of_sentencepiece_is_read(tmp_path, spec_of):
    """As DeBERTa-v3 has it: spm.model and nothing else."""
    spm = pytest.importorskip("sentencepiece")
    folder = tmp_path / "deberta"
    folder.mkdir()
    sentences = iter(
        [f"the {a} {b} sat" for a in ("cat", "dog", "old man") for b in ("quietly", "there")] * 30
    )
    with (folder / "spm.model").open("wb") as file:
        spm.SentencePieceTrainer.train(
            sentence_iterator=sentences, model_writer=file, vocab_size=24, pad_id=0, unk_id=1, bos_id=2,
            eos_id=3, pad_piece="[PAD]", unk_piece="[UNK]", bos_piece="[CLS]", eos_piece="[SEP]",
            minloglevel=2,
        )  # fmt: skip
    config = transformers.DebertaV2Config(**TINY, vocab_size=60, relative_attention=True, position_buckets=8)
    torch.manual_seed(0)
    transformers.DebertaV2Model(config).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "DebertaV2Tokenizer"}')
    _, tokenizer, _ = models.load(spec_of(folder), kind="classification", n_labels=2)
    assert tokenizer.decode(tokenizer("the cat sat")["input_ids"], skip_special_tokens=True) == "the cat sat"


def test_a_tokenizer_whose_vocabulary_is_lost_is_refused(tmp_path, tiny_bert, spec_of):
    """Transformers makes one of special tokens alone, to which every word is unknown."""
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.raises(UserError, match=r"has no tokenizer \(none of tokenizer\.json, "):
        models.load(spec_of(folder), kind="classification", n_labels=2)


@pytest.fixture
def xlnet(tmp_path, tiny_bert):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    config = transformers.XLNetConfig(vocab_size=len(tokenizer), d_model=24, n_layer=2, n_head=2, d_inner=40)
    return saved(tmp_path / "xlnet", config, tokenizer, auto=transformers.AutoModelForCausalLM)


def test_a_classifier_that_reads_its_last_place_is_refused(xlnet, spec_of):
    with pytest.raises(UserError, match="is a xlnet, which reads a text off its last token"):
        models.load(spec_of(xlnet), kind="classification", n_labels=2)


def test_one_that_reads_its_first_place_is_not(tmp_path, tiny_bert, spec_of):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    config = transformers.XLMConfig(vocab_size=len(tokenizer), emb_dim=24, n_layers=1, n_heads=2, n_langs=1)
    folder = saved(tmp_path / "xlm", config, tokenizer)
    assert models.load(spec_of(folder), kind="classification", n_labels=2)[2].max_length == 512


def test_positions_without_end_have_no_limit(xlnet, spec_of):
    """XLNet's config says max_position_embeddings: -1."""
    assert models.dimensions(spec_of(xlnet))["max_length"] is None


def test_a_number_among_the_tensors_is_no_map(tmp_path, tiny_bert, spec_of):
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "logit_scale": torch.tensor(2.5)}, folder / "model.safetensors", {"format": "pt"})
    plain, scaled = skeleton(spec_of(tiny_bert)), skeleton(spec_of(folder))
    assert scaled.layout.maps == plain.layout.maps and len(plain.layout.maps) > 6


BNB = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}
QUANTISED = [
    ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}}, r"\(gptq, 4 bits\)"),
    ({"quantization_config": BNB}, r"\(bitsandbytes, 8 bits\)"),
    ({"quantization_config": {"quant_method": "mxfp4"}}, r"\(mxfp4\)"),
    ({"compression_config": {"format": "pack-quantized"}}, "quantised already, and"),
    ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, r"\(fp8\)"),
]


@pytest.mark.parametrize(("said", "told"), QUANTISED)
def test_a_base_that_is_quantised_already_is_refused_by_its_config(tmp_path, tiny_bert, spec_of, said, told):
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | said))
    for ask in (models.dimensions, lambda spec: models.load(spec, kind="classification", n_labels=2)):
        with pytest.raises(UserError, match=rf"{told}.*give the 16-bit original.*variant=qlora"):
            ask(spec_of(folder))


def test_a_command_on_a_quantised_base_is_refused_before_anything_starts(tmp_path, tiny_llama, cells_of):
    from experiments.models import dimensions
    from experiments.sizing.ranks import check_ranks

    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    quantised = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    (folder / "config.json").write_text(json.dumps(config | quantised))
    specs = cells_of(f"variant=lora,qlora r=1,2 dataset=scipy_topics model=hf model.path={folder}")
    [problem] = check_ranks(specs, dimensions)
    assert "quantised already (awq, 4 bits)" in problem


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float8_e4m3fn])
def test_a_base_whose_tensors_are_packed_is_refused_though_its_config_is_silent(
    tmp_path, tiny_bert, spec_of, dtype
):
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    save_file({**tensors, name: tensors[name].to(dtype)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"quantised already \(encoder\.layer\.1\.output\.dense\.weight is "):
        models.load(spec_of(folder), kind="classification", n_labels=2)
