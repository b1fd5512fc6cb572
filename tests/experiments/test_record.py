"""The record: whole or absent, finite or refused, and checked against what lies beside it."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import files, record
from experiments.errors import UserError

RECORD = {"run_id": "lora-r8", "study": "demo", "spec": {"variant": "lora", "r": 8}, "status": "completed"}


@pytest.fixture
def folder(tmp_path):
    """A finished run's folder, the record not yet written."""
    run = record.RunFolder(tmp_path / "demo" / "lora-r8")
    run.write_spec(RECORD["spec"])
    with record.History(run.history) as history:
        for step in range(1, 4):
            history.append({"step": step, "loss": 1 / step})
    run.predictions.write_bytes(b"rows")
    run.adapter.mkdir()
    (run.adapter / "adapter_config.json").write_text("{}")
    run.log.write_text("words")
    return run


def test_a_record_reads_back_with_schema_and_checksums(folder):
    folder.write_record({**RECORD, "metrics": {"test/accuracy": 0.5}})
    found = record.read(folder.path)
    assert found["schema"] == 1 and found["phase"] == "run" and found["metrics"] == {"test/accuracy": 0.5}
    assert set(found["files"]) == {
        "spec.json",
        "history.jsonl",
        "predictions.parquet",
        "adapter/adapter_config.json",
    }
    assert record.verify(folder.path) == []
    assert record.read(folder.record) == found


def test_a_record_holds_no_number_that_is_not_finite(folder):
    with pytest.raises(ValueError, match=r"record\.metrics\.test/loss is nan"):
        folder.write_record({**RECORD, "metrics": {"test/loss": float("nan")}})
    assert record.read(folder.path) is None
    assert list(folder.path.glob(".*")) == []


def test_unknown_values_are_absent(folder):
    folder.write_record({**RECORD, "cost": {"peak_bytes": None, "step_ms": 2.0}, "error": None})
    found = record.read(folder.path)
    assert found["cost"] == {"step_ms": 2.0} and "error" not in found


def test_numpy_scalars_are_written_as_numbers(folder):
    numpy = pytest.importorskip("numpy")
    folder.write_record({**RECORD, "metrics": {"a": numpy.float32(0.5), "b": numpy.int64(3)}})
    assert record.read(folder.path)["metrics"] == {"a": 0.5, "b": 3}


@pytest.mark.parametrize(
    "wrong", [{"status": "ok"}, {"phase": "warm"}, {"status": None}], ids=["status", "phase", "none"]
)
def test_only_the_known_statuses_and_phases_are_written(folder, wrong):
    with pytest.raises(ValueError, match="is none of"):
        folder.write_record({**RECORD, **wrong})


def test_a_record_without_its_run_is_refused(folder):
    with pytest.raises(ValueError, match="needs run_id, spec"):
        folder.write_record({"study": "demo", "status": "completed"})


def test_a_torn_record_counts_as_none(folder):
    folder.write_record(RECORD)
    folder.record.write_text(folder.record.read_text()[:40])
    assert record.read(folder.path) is None
    assert record.verify(folder.path) == ["record.json is torn"]
    folder.record.write_text('{"schema": 1, "run_id": "lora-r8"}')
    assert record.read(folder.path) is None, "whoever reads a record asks for its status"


def test_an_unfinished_run_is_told_from_a_torn_one(folder):
    assert record.verify(folder.path) == ["record.json is missing: the run has not ended"]


def test_a_record_of_another_schema_is_refused(folder):
    folder.record.write_text(json.dumps({"schema": 2}))
    with pytest.raises(UserError, match="schema 2"):
        record.read(folder.path)


def test_verify_names_each_file_that_changed_after_the_run(folder):
    folder.write_record(RECORD)
    folder.predictions.write_bytes(b"ro")
    folder.history.unlink()
    os.rename(folder.path, folder.path.with_name("dora-r8"))
    problems = record.verify(folder.path.with_name("dora-r8"))
    assert [problem.split(" ")[0] for problem in problems] == [
        "record.json",
        "history.jsonl",
        "predictions.parquet",
    ]


def test_rewriting_a_record_never_shows_a_half(folder, monkeypatch):
    folder.write_record(RECORD)
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UserError, match="disk is full"):
        folder.write_record({**RECORD, "status": "failed"})
    assert record.read(folder.path)["status"] == "completed"
    assert list(folder.path.glob(".*")) == []


def test_folders_of_runs_and_studies_are_found_by_what_they_hold(folder, tmp_path):
    folder.write_record(RECORD)
    (tmp_path / "demo" / "report").mkdir()
    (tmp_path / "demo" / "report" / "spec.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    assert record.studies(tmp_path) == [tmp_path / "demo"]
    assert [run.path for run in record.run_folders(tmp_path / "demo")] == [folder.path]
    assert [found["run_id"] for found in record.records(tmp_path / "demo")] == ["lora-r8"]
    assert record.studies(tmp_path / "nowhere") == [] and list(record.records(tmp_path / "nowhere")) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dmeo", "there is no folder .*dmeo. Did you mean 'demo'\\?"),
        ("other", "there is no folder .*other. The studies beside it: demo."),
        (".", "holds no run: .* The studies in it: demo; name one of them."),
        ("nowhere/at/all", "there is no folder .*all. Name the folder of a study, e.g. runs/demo."),
    ],
)
def test_what_is_said_of_a_folder_without_runs(folder, tmp_path, monkeypatch, name, said):
    folder.write_record(RECORD)
    shut, listed = tmp_path / "another's", Path.iterdir
    shut.mkdir(mode=0)
    monkeypatch.setattr(Path, "iterdir", lambda path: listed(path) if path != shut else refuse(path))
    with pytest.raises(UserError, match=said):
        raise record.no_runs(tmp_path / name)


def refuse(path):
    """As the system does with a folder that may not be read, whoever runs the tests."""
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


# --- history


def test_history_keeps_values_that_are_not_finite_as_absent_keys(tmp_path):
    path = tmp_path / "history.jsonl"
    with record.History(path) as history:
        history.append({"step": 1, "loss": float("inf"), "lr": 0.1, "grad": float("nan"), "note": None})
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    assert record.read_history(path) == [{"step": 1, "lr": 0.1, "nonfinite": ["loss", "grad"]}]


def test_each_row_is_on_file_before_the_next(tmp_path):
    history = record.History(tmp_path / "history.jsonl")
    for step in range(5):
        history.append({"step": step})
        assert record.read_history(history.path)[-1] == {"step": step}
    history.close()


def test_rows_survive_kill_9(tmp_path):
    code = (
        "import os, pathlib, signal; from experiments.record import History\n"
        f"h = History(pathlib.Path({str(tmp_path / 'h.jsonl')!r}))\n"
        "[h.append({'step': i}) for i in range(100)]\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=files.__file__.rsplit("/", 2)[0], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(record.read_history(tmp_path / "h.jsonl")) == 100


def test_a_torn_last_line_is_read_over_and_cut_off_by_the_next_append(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert record.read_history(path) == [{"step": 1}]
    with record.History(path) as history:
        history.append({"step": 2})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_cut_to_a_mark_later_rows_are_gone_and_appending_goes_on(tmp_path):
    history = record.History(tmp_path / "history.jsonl")
    for step in range(1, 4):
        history.append({"step": step})
    size, digest = history.mark()
    for step in (4, 5):
        history.append({"step": step})
    assert history.holds(size, digest)
    history.cut(size)
    history.append({"step": 4, "again": True})
    history.close()
    rows = record.read_history(history.path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and rows[-1]["again"]


def test_a_history_that_was_changed_or_shortened_no_longer_holds_its_mark(tmp_path):
    history = record.History(tmp_path / "history.jsonl")
    history.append({"step": 1})
    mark = history.mark()
    history.close()
    content = history.path.read_bytes()
    for damaged in (content.replace(b"1", b"7"), content[:-1], b""):
        history.path.write_bytes(damaged)
        assert not history.holds(*mark)
    history.path.unlink()
    assert not history.holds(*mark)


def test_cutting_a_history_that_never_began_is_nothing(tmp_path):
    history = record.History(tmp_path / "history.jsonl")
    assert history.holds(*history.mark())
    history.cut(0)
    assert record.read_history(history.path) == []


def test_a_process_that_was_replaced_writes_past_the_history(tmp_path):
    slow, mine = record.History(tmp_path / "history.jsonl"), record.History(tmp_path / "history.jsonl")
    slow.append({"step": 1})
    mine.cut(0)
    mine.append({"step": 1})
    slow.append({"step": 2})
    assert [row["step"] for row in record.read_history(mine.path)] == [1]


# --- what a disk may do


@pytest.fixture
def full_disk():
    """A limit on file size, which a write meets as it would meet a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_whole_rows_and_says_what_to_do(tmp_path, full_disk):
    history = record.History(tmp_path / "history.jsonl")
    with pytest.raises(UserError, match="give the same command again"):
        for step in range(100):
            history.append({"step": step})
    text = history.path.read_text()
    assert text.endswith("}\n") and 100 < len(text) <= 200
    history.close()


def test_a_full_disk_leaves_the_record_absent(tmp_path, full_disk):
    folder = record.RunFolder(tmp_path)
    with pytest.raises(UserError, match=r"cannot write .*record\.json"):
        folder.write_record({**RECORD, "note": "x" * 500})
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_folders_place_is_explained(tmp_path):
    (tmp_path / "demo").write_text("")
    with pytest.raises(UserError, match="there is a file where a folder is needed"):
        files.check_writable(tmp_path / "demo" / "run")


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EACCES, "Change the permissions"),
        (errno.EROFS, "Mount it writable"),
        (errno.EDQUOT, "quota is used up. Free some space"),
        (errno.EIO, "Input/output error. Find out why"),
    ],
    ids=lambda value: errno.errorcode.get(value, ""),
)
def test_each_refusal_of_the_disk_names_its_remedy(tmp_path, code, remedy):
    with pytest.raises(UserError, match=remedy), files.explained(tmp_path):
        raise OSError(code, os.strerror(code))


def test_a_disk_with_too_little_room_is_found_before_the_start(tmp_path):
    files.check_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(UserError, match="disk is full"):
        files.check_writable(tmp_path / "new", needed_bytes=10**18)


EDITS = {
    "a metric": lambda r: r["metrics"].update({"test/accuracy": 0.75}),
    "a metric in its last digit": lambda r: r["metrics"].update({"test/loss": 0.30000000000000004}),
    "the seed": lambda r: r["spec"].update(seed=4),
    "the rate": lambda r: r["spec"].update(lr=2e-3),
    "a deviation": lambda r: r["deviations"].clear(),
    "the code": lambda r: r["env"].update(code_sha256="f" * 64),
    "a note more": lambda r: r.update(notes=["fine"]),
    "a key less": lambda r: r.pop("env"),
    "the checksum": lambda r: r.update(sha256="0" * 64),
    "no checksum at all": lambda r: r.update(sha256=None),
}


@pytest.fixture
def ended(tmp_path):
    """The folder of a completed run, and a way to change its record by hand."""
    folder = record.RunFolder(tmp_path / "run-1")
    content = {
        "run_id": "run-1", "study": "toy", "status": "completed", "spec": {"seed": 3, "lr": 1e-3},
        "metrics": {"test/accuracy": 0.5, "test/loss": 0.3, "x": -0.0, "n": 10**17},
        "deviations": ["é \u2028 \U0001f600"], "env": {"code_sha256": "e" * 64},
    }  # fmt: skip
    folder.write_record(content)

    def change(by):
        found = json.loads(folder.record.read_text())
        by(found)
        folder.record.write_text(json.dumps(found))

    return folder.path, change


@pytest.mark.parametrize("what", EDITS)
def test_a_record_that_was_edited_differs_from_its_checksum(ended, what):
    path, change = ended
    assert record.verify(path) == [] and not record.is_edited(record.read(path))
    change(EDITS[what])
    assert record.is_edited(record.read(path))
    assert record.verify(path) == ["record.json differs from its own checksum: changed after the run"]


def test_a_record_written_anew_with_the_same_content_is_the_same(ended):
    """Order of keys, spaces and escapes do not count."""
    path, _ = ended
    found = json.loads((path / "record.json").read_text())
    turned = dict(reversed(found.items()))
    (path / "record.json").write_text(json.dumps(turned, indent=7, ensure_ascii=True))
    assert record.verify(path) == []


def test_a_record_of_older_code_bears_no_checksum_and_is_read_as_before(ended):
    path, change = ended
    change(lambda r: (r.pop("sha256"), r["metrics"].update({"test/accuracy": 0.75})))
    assert record.verify(path) == [] and record.read(path)["metrics"]["test/accuracy"] == 0.75


def test_a_record_that_is_nested_too_deeply_is_torn(ended):
    path, change = ended
    deep = json.loads("[" * 200 + "]" * 200)
    change(lambda r: r.update(notes=deep))
    assert record.read(path) is None and record.verify(path) == ["record.json is torn"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": []}, {"status": "fine"}, {"spec": []}, {"study": 3}, {"files": ["spec.json"]},
        {"files": {"spec.json": 3}}, {"metrics": {"test/accuracy": "0.5"}}, {"metrics": []}, {"notes": "a"},
        {"notes": [3]}, {"env": {"versions": []}}, {"error": 3}, {"pack": {"runs": [1]}}, {"pack": {}},
        {"data": {"train_sha256": []}}, {"cost": {"step_ms": True}}, {"command": ["python"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_of_other_types_than_are_written_is_read_as_a_torn_one(ended, wrong):
    path, change = ended
    assert record.read(path) is not None
    change(lambda found: found.update(wrong))
    assert record.read(path) is None and record.verify(path) == ["record.json is torn"]
