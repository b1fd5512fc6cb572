"""An adapter's folder read: as PEFT itself understands it, or refused in one sentence."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from variants import AdapterError, RunConfig, attach, attach_peft, read_peft, write_peft


def near(ours, theirs):
    assert (ours - theirs).norm() <= 1e-5 * ours.norm()


@pytest.mark.parametrize(
    ("flags", "delta"),
    [({}, "lora"), ({"use_rslora": True}, "lora"), ({"use_dora": True}, "dora"), (None, "adalora")],
)
def test_what_peft_writes_we_read(flags, delta, tiny_model, tokens, tmp_path):
    peft = pytest.importorskip("peft")
    common = {"task_type": "SEQ_CLS", "target_modules": ["query", "output.dense"], "lora_alpha": 5}
    if flags is None:
        config = peft.AdaLoraConfig(init_r=3, target_r=2, total_step=10, **common)
    else:
        config = peft.LoraConfig(
            r=3, rank_pattern={"query": 2}, alpha_pattern={"query": 7}, **common, **flags
        )
    model = peft.get_peft_model(tiny_model("bert"), config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name or "classifier" in name:
                p += 0.2 * torch.randn_like(p)
    model.save_pretrained(tmp_path)
    adapter = read_peft(tmp_path)
    assert adapter.delta == delta
    attached = attach_peft(tiny_model("bert"), [adapter])
    near(model(input_ids=tokens()).logits, attached.model(input_ids=tokens()).logits)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["query", "dense"], "exclude_modules": ["pooler.dense"]},
        {"target_modules": r".*\.(query|value)"},
        {"target_modules": ["key", "query"], "layers_to_transform": 1},
    ],
)
def test_what_peft_was_asked_to_adapt_is_told_as_peft_tells_it(settings, tiny_model, tokens, tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=3, task_type="SEQ_CLS", init_lora_weights=False, **settings)
    model = peft.get_peft_model(tiny_model("bert"), config).eval()
    model.save_pretrained(tmp_path)
    back = attach_peft(tiny_model("bert"), [read_peft(tmp_path)])
    near(model(input_ids=tokens()).logits, back.model(input_ids=tokens()).logits)
    first = next(key for key in load_file(tmp_path / "adapter_model.safetensors") if "lora_" in key)
    lost = first.partition(".lora_")[0]
    rewrite(tmp_path, lambda t: [t.pop(key) for key in list(t) if key.startswith(f"{lost}.")])
    with pytest.raises(AdapterError, match=f"but 1 have none: {lost.removeprefix('base_model.model.')}"):
        attach_peft(tiny_model("bert"), [read_peft(tmp_path)])


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal", "pissa", "olora"])
def test_an_adapter_is_read_right_or_refused_however_it_began(start, tiny_model, tokens, tmp_path):
    """Some starts move a part of the base into the adapter, which then says nothing on the base as it was."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4, task_type="SEQ_CLS", init_lora_weights=start, target_modules=["query", "key"]
    )
    model = peft.get_peft_model(tiny_model("bert"), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter += 0.3
    model.save_pretrained(tmp_path)
    if start in ("pissa", "olora"):
        with pytest.raises(AdapterError, match=f"init_lora_weights {start!r} has changed the base"):
            read_peft(tmp_path)
        return
    back = attach_peft(tiny_model("bert"), [read_peft(tmp_path)])
    near(model(input_ids=tokens()).logits, back.model(input_ids=tokens()).logits)


@pytest.fixture
def adapter(tiny_model, tmp_path):
    """A folder that is in order, to be spoiled."""
    write_peft(attach(tiny_model("bert"), [RunConfig(0, r=2)]), 0, tmp_path / "adapter")
    return tmp_path / "adapter"


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


FIRST = "base_model.model.bert.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), "holds no adapter_config.json"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
        (
            lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
            "adapter_model.bin could run code",
        ),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\0" * 50), "is damaged"),
        (lambda f: edit(f, peft_type="VERA"), "peft_type 'VERA'"),
        (lambda f: edit(f, bias="all"), "bias 'all'"),
        (
            lambda f: (f / "adapter_config.json").write_text("[]"),
            "should hold settings by name, found a list",
        ),
        (lambda f: edit(f, lora_alpha=-1), "lora_alpha should be a positive number, found -1"),
        (lambda f: edit(f, lora_alpha=None), "lora_alpha should be a positive number, found None"),
        (lambda f: edit(f, lora_alpha="16"), "lora_alpha should be a positive number, found '16'"),
        (lambda f: edit(f, r=0), "r should be a whole number from 1 on, found 0"),
        (lambda f: edit(f, peft_type="ADALORA"), "init_r should be a whole number from 1 on, found None"),
        (lambda f: edit(f, alpha_pattern={"query": "x"}), "alpha_pattern should be positive numbers by"),
        (lambda f: edit(f, rank_pattern={"(": 2}), "rank_pattern should be ranks by patterns of names"),
        (lambda f: edit(f, target_modules="("), "target_modules should be names of modules, or a regular"),
        (lambda f: edit(f, layers_to_transform="0"), "layers_to_transform should be numbers of layers"),
        (
            lambda f: edit(f, r=5),
            "query should have rank 5, as its settings say, but its tensors have rank 2",
        ),
        (lambda f: edit(f, rank_pattern={"0.attention.self.query": 3}), "query should have rank 3, as"),
        (
            lambda f: edit(f, init_lora_weights="pissa"),
            "init_lora_weights 'pissa' has changed the base as well",
        ),
        (lambda f: edit(f, init_lora_weights="olora"), "Have PEFT convert it to a plain LoRA"),
        (lambda f: edit(f, alora_invocation_tokens=[5]), "alora_invocation_tokens"),
        (lambda f: edit(f, use_bdlora={"target_modules_bd_a": ["q"]}), "use_bdlora"),
        (lambda f: edit(f, kasa_config={"beta": 1e-4}), "kasa_config"),
        (lambda f: edit(f, use_dora=True), r"should have tensors A\+B\+m, found A\+B"),
        (lambda f: rewrite(f, lambda t: t.pop(f"{FIRST}.lora_B.weight")), r"should have tensors A\+B"),
        (lambda f: rewrite(f, lambda t: t.update({f"{FIRST}.lora_C.weight": torch.ones(1)})), "is of a kind"),
        (
            lambda f: rewrite(f, lambda t: t.update({f"{FIRST}.lora_B.weight": torch.ones(12, 3)})),
            "ranks of .* disagree",
        ),
        (
            lambda f: rewrite(f, lambda t: t.update({f"{FIRST}.lora_B.weight": torch.ones(24)})),
            r"should be matrices of floats, found .*B \(24,\)",
        ),
        (
            lambda f: rewrite(f, lambda t: t.update({f"{FIRST}.lora_A.weight": torch.tensor(1.0)})),
            r"should be matrices of floats, found A \(\)",
        ),
        (
            lambda f: rewrite(f, lambda t: t.update({f"{FIRST}.lora_A.weight": torch.ones(2, 12).long()})),
            r"should be matrices of floats, found A \(2, 12\) torch.int64",
        ),
    ],
)
def test_a_folder_that_is_no_adapter_is_refused(break_it, message, adapter):
    break_it(adapter)
    with pytest.raises(AdapterError, match=message):
        read_peft(adapter)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({f"{FIRST}.lora_A.weight": torch.ones(2, 11)}),
            r"query A should be \(2, 12\).*found \(2, 11\)",
        ),
        (
            lambda t: t.update({"base_model.model.classifier.weight": torch.ones(4, 12)}),
            r"should be \(3, 12\)",
        ),
        (
            lambda t: t.update({"base_model.model.score.weight": torch.ones(4, 12)}),
            "score.weight are no parameters of",
        ),
    ],
)
def test_an_adapter_of_another_shape_is_refused(change, message, adapter, tiny_model):
    rewrite(adapter, change)
    with pytest.raises(AdapterError, match=message):
        attach_peft(tiny_model("bert"), [read_peft(adapter)])


def test_an_adapter_of_another_model_is_refused(adapter, tiny_model):
    with pytest.raises(AdapterError, match=r"is for another model: this one has no bert\.encoder"):
        attach_peft(tiny_model("roberta"), [read_peft(adapter)])
