"""Finished runs that are no longer what they were: noticed at once, moved away, done again, at low cost."""

import os
import shutil

import pytest

from experiments import files, record
from experiments.spec import RunSpec, Train
from experiments.sweep.integrity import IntegrityCheck, quarantine, quarantine_damaged
from experiments.sweep.lease import acquire
from experiments.sweep.plan import plan

FILES = ("spec.json", "history.jsonl", "predictions.parquet", "adapter/adapter_model.safetensors")


@pytest.fixture
def study(tmp_path):
    """runs/toy with three completed runs, a diverged and a failed one."""
    for name, status in [("a", "completed"), ("b", "completed"), ("c", "diverged"), ("d", "failed")]:
        folder = record.RunFolder(tmp_path / "toy" / name)
        folder.write_spec({"study": "toy", "variant": name})
        for file in FILES[1:]:
            path = folder.path / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(f"{name} {file} ".encode() * 20)
        folder.write_record({"run_id": name, "study": "toy", "status": status, "spec": {"variant": name}})
    return tmp_path / "toy"


def known(study):
    """The study after one look at all of it."""
    first = IntegrityCheck(study)
    for name in "abcd":
        assert first.status(name)[1] == []
    first.save()
    return IntegrityCheck(study)


def test_whole_runs_are_hashed_once(study, monkeypatch):
    again = known(study)
    hashed = []
    monkeypatch.setattr(record, "sha256", lambda path: hashed.append(path) or files.sha256(path))
    assert [again.status(name)[0] for name in "abcd"] == ["completed", "completed", "diverged", "failed"]
    assert hashed == []
    os.utime(study / "a" / "history.jsonl")
    assert again.status("a") == ("completed", [])
    assert len(hashed) == len(FILES)


@pytest.mark.parametrize("file", [*FILES, "record.json"])
@pytest.mark.parametrize("remembered", [True, False])
def test_a_truncated_file_is_noticed_even_with_its_old_time(study, file, remembered):
    index = known(study) if remembered else IntegrityCheck(study)
    path = study / "b" / file
    time = path.stat().st_mtime_ns
    os.truncate(path, path.stat().st_size - 1)
    os.utime(path, ns=(time, time))
    if file == "record.json":  # its last character is a newline: cut what makes it JSON
        os.truncate(path, 100)
    _, problems = index.status("b")
    assert len(problems) == 1 and file in problems[0]
    assert index.status("a") == ("completed", [])


@pytest.mark.parametrize("remembered", [True, False])
def test_changed_bytes_and_a_missing_file_are_noticed(study, remembered):
    index = known(study) if remembered else IntegrityCheck(study)
    path = study / "a" / "adapter/adapter_model.safetensors"
    path.write_bytes(path.read_bytes().replace(b"a", b"x"))
    (study / "c" / "predictions.parquet").unlink()
    assert "adapter_model" in index.status("a")[1][0]
    assert "missing" in index.status("c")[1][0]


def test_torn_notes_cost_time_and_nothing_else(study):
    known(study)
    (study / ".verified.json").write_text('{"a": {"sta')
    assert IntegrityCheck(study).status("a") == ("completed", [])


def test_what_is_damaged_is_kept_with_the_reason(study):
    os.truncate(study / "a" / "history.jsonl", 5)
    told = quarantine_damaged(study, {"a": ["..."]})
    assert "history.jsonl" in told[0] and ".quarantine/a.1" in told[0]
    kept = study / ".quarantine" / "a.1"
    assert (kept / "history.jsonl").stat().st_size == 5
    assert "history.jsonl differs" in (kept / "reason.txt").read_text()
    assert not (study / "a").exists()
    assert [f.path.name for f in record.run_folders(study)] == ["b", "c", "d"]
    shutil.copytree(study / "b", study / "a")
    assert quarantine(study, "a", ["again"]).name == "a.2"


def test_what_another_process_holds_or_has_put_right_is_let_be(study):
    os.truncate(study / "a" / "history.jsonl", 5)
    with acquire(study / ".claims", "a"):
        assert quarantine_damaged(study, {"a": ["..."]}) == []
    assert quarantine_damaged(study, {"b": ["seen damaged before it was done again"]}) == []
    assert (study / "a").exists() and (study / "b").exists()


class Named(RunSpec):
    """A spec whose run is called after its seed."""

    def run_id(self, data_sha256):
        return "abcde"[self.seed]

    hash = run_id


def test_a_plan_takes_damaged_runs_as_missing_and_says_so(study):
    os.truncate(study / "b" / "predictions.parquet", 3)
    (study / "c" / "record.json").write_text("{")
    specs = [
        Named(
            study="toy", variant="lora", method="adapters", r=2, alpha=4.0, targets="qv", axes={}, options={},
            model="tiny", model_options={}, dataset="csv", dataset_options={}, lr=0.1, train=Train(), seed=i,
        )
        for i in range(5)
    ]  # fmt: skip
    found = plan(specs, fingerprints=lambda spec: "", root=study.parent)
    assert [run_id for _, run_id in found.done] == ["a"]
    assert [run_id for _, run_id in found.todo] == ["b", "c", "d", "e"]
    assert sorted(found.damaged) == ["b", "c"]
    again = plan(specs, fingerprints=lambda spec: "", root=study.parent, again=True)
    assert len(again.todo) == 5 and not again.damaged


def test_a_run_whose_record_was_edited_is_quarantined(study):
    path = study / "c" / "record.json"
    path.write_text(path.read_text().replace("diverged", "completed"))
    check = IntegrityCheck(study)
    assert check.status("c")[1] == ["record.json differs from its own checksum: changed after the run"]
    [note] = quarantine_damaged(study, {"c": check.status("c")[1]})
    assert "checksum" in note and not (study / "c").exists()
