"""What is no adapter, or none for this model, is refused with what was expected and what was found."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from variants import AdapterError, RunConfig, attach, attach_peft, read_peft


def moved(model, run):
    """A run away from its start."""
    attached, source = attach(model, [run]), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for t in attached.trained:
            t.parameter += 0.3 * torch.randn(t.parameter.shape, generator=source)
    attached.after_load()
    return attached


@pytest.fixture
def adapter(tiny_model, tmp_path):
    moved(tiny_model("bert"), RunConfig(0, r=2)).export_peft(0, tmp_path / "adapter")
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


def test_nothing_is_overwritten_unasked_and_nothing_left_half_written(adapter, tiny_model, monkeypatch):
    attached = moved(tiny_model("bert"), RunConfig(0, r=3))
    with pytest.raises(FileExistsError, match="is there already and not empty"):
        attached.export_peft(0, adapter)
    before = (adapter / "adapter_model.safetensors").read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        attached.export_peft(0, adapter, replace=True)
    assert (adapter / "adapter_model.safetensors").read_bytes() == before
    assert [p.name for p in adapter.parent.iterdir()] == ["adapter"]
    monkeypatch.undo()
    attached.export_peft(0, adapter, replace=True)
    assert (adapter / "adapter_model.safetensors").read_bytes() != before
    shutil.rmtree(adapter)
    adapter.mkdir()
    attached.export_peft(0, adapter)
