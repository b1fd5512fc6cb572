"""Opening a run: the damaged, unfinished or changed is refused, and a base is stored before it is moved."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import variants
from experiments.artifacts import load_base, open_source, put_back
from experiments.export.__main__ import main
from variants import backbone_linears, store_backbone


def test_a_base_is_stored_before_it_goes_to_the_device(finished, monkeypatch):
    """So that the device never holds its dense maps; "meta" stands for one."""
    source = open_source(finished("lora", storage="bf16"))
    base, seen = load_base(source), []
    base.device = torch.device("meta")

    def noted(model, runs, **options):
        seen.extend(module.weight.device.type for module in backbone_linears(model).values())
        return store_backbone(model, runs, **options)

    monkeypatch.setattr(variants, "store_backbone", noted)
    model = base.stored(source, {})
    assert set(seen) == {"cpu"}
    assert {p.device.type for p in (*model.parameters(), *model.buffers())} == {"meta"}


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of a run that may be damaged."""
    return shutil.copytree(finished("lora"), tmp_path / finished("lora").name)


def test_a_torn_adapter_is_refused(copied, capsys):
    with open(copied / "adapter/adapter_model.safetensors", "rb+") as file:
        file.truncate(100)
    assert main([str(copied), str(copied.parent / "out"), "--to", "merged"]) == 2
    said = capsys.readouterr().err
    assert "adapter_model.safetensors differs from its checksum" in said and "experiments.sweep retry" in said
    assert not (copied.parent / "out").exists()


def test_what_is_no_finished_run_is_refused(copied, finished, capsys):
    out = str(copied.parent / "out")
    record = json.loads((copied / "record.json").read_text())
    for change, message in (
        (lambda: None, ""),
        (
            lambda: (copied / "record.json").write_text(json.dumps(record | {"status": "diverged"})),
            "'diverged'",
        ),
        (lambda: (copied / "record.json").unlink(), "record.json is missing: the run has not ended"),
        (lambda: shutil.rmtree(copied), "there is no folder"),
    ):
        change()
        assert main([str(copied), out, "--to", "peft", "--replace"]) == (2 if message else 0)
        assert message in capsys.readouterr().err
    study = finished("lora").parent
    assert main([str(study), out, "--to", "peft"]) == 2
    assert "is a study. Give one of its runs" in capsys.readouterr().err
    assert main([str(study / finished("lora").name[:-1]), out, "--to", "peft"]) == 2
    assert "Did you mean 'lora-bert" in capsys.readouterr().err
    assert main([str(study.parent), out, "--to", "peft"]) == 2
    assert "holds neither a run (record.json) nor an adapter" in capsys.readouterr().err


def test_a_base_that_has_changed_is_refused(finished, tmp_path):
    source = open_source(finished("lora"))
    base = load_base(source)
    with pytest.raises(Exception, match="its base has changed"):
        put_back(base, [replace(source, base_sha256="0" * 64)])


def test_tensors_by_name_must_be_those_that_were_trained(finished, tmp_path):
    source = open_source(finished("bitfit"))
    base = load_base(source)
    tensors = load_file(source.trained)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, tmp_path / "trained.safetensors")
    with pytest.raises(Exception, match=f"expected {len(tensors) + 1} tensors, found {len(tensors)}"):
        put_back(base, [replace(source, trained=tmp_path / "trained.safetensors")])


def test_a_record_without_labels_is_completed_from_its_data(copied, monkeypatch):
    record = json.loads((copied / "record.json").read_text())
    del record["data"]["labels"], record["sha256"]  # as an older version wrote it
    (copied / "record.json").write_text(json.dumps(record))
    assert open_source(copied).labels == ("no", "yes")
    record["data"]["train_sha256"] = "0" * 64
    (copied / "record.json").write_text(json.dumps(record))
    with pytest.raises(Exception, match="does not name its classes, and the data"):
        open_source(copied)
