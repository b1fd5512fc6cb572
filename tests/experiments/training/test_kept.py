"""Whatever happens after the test, a run keeps its metrics: what could not be saved is a deviation."""

import errno

import pytest
from safetensors import safe_open

from experiments.errors import UserError
from experiments.training import execute as execution


def test_an_adapter_that_cannot_be_exported_is_kept_as_tensors_and_said(run_of, monkeypatch, execute):
    def broken(*args, **kwargs):
        raise KeyError("lora_A")

    monkeypatch.setattr(execution, "write_peft", broken)
    run = run_of("run")
    [record] = execute([run])
    assert record["status"] == "completed" and "test/accuracy" in record["metrics"]
    (deviation,) = record["deviations"]
    assert deviation == "the adapter could not be written in PEFT's format: KeyError: 'lora_A'"
    assert record["adapter"]["kept_as"] == "tensors"
    with safe_open(run.folder.adapter / "trained.safetensors", "pt") as file:
        assert sum(".deltas." in key for key in file.keys()) == 8  # noqa: SIM118


def test_what_cannot_be_saved_at_all_costs_no_metrics(run_of, monkeypatch, execute):
    def broken(*args, **kwargs):
        raise ValueError("no")

    monkeypatch.setattr(execution, "write_peft", broken)
    monkeypatch.setattr(execution, "save_file", broken)
    run = run_of("run")
    [record] = execute([run])
    assert record["status"] == "completed" and "test/accuracy" in record["metrics"]
    assert len(record["deviations"]) == 2
    assert record["deviations"][1] == "what was learned could not be saved: ValueError: no"
    assert record["cost"]["adapter_bytes"] == 0 and "kept_as" not in record["adapter"]


def test_a_full_disk_still_fails_the_run_so_that_it_goes_on_once_there_is_room(run_of, monkeypatch, execute):
    def full(*args, **kwargs):
        raise UserError("the disk is full") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(execution, "write_peft", full)
    run = run_of("run")
    with pytest.raises(UserError, match="the disk is full"):
        execute([run])
    assert not run.folder.record.exists()


def test_how_a_run_is_kept_stands_in_its_record(run_of, execute):
    [record] = execute([run_of("run")])
    assert record["adapter"]["kept_as"] == "peft lora" and record["deviations"] == []
