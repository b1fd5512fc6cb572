"""What the engine writes for a run whose worker cannot, and when failures are the same failure."""

import json

import pytest

from experiments import record
from experiments.config.settings import Terms
from experiments.sweep.failures import common_cause, fingerprint, settle
from experiments.sweep.lease import acquire
from experiments.sweep.pool import Outcome, PlannedRun


@pytest.fixture
def ended(tmp_path, cells_of):
    """How the engine settles a run of the study `toy` after an event of its worker."""
    [spec] = cells_of("study=toy")

    def end(event, **terms):
        return settle(Outcome(PlannedRun("run-1", spec), event, 1.0), tmp_path / "toy", Terms(**terms))

    return end


def written(tmp_path):
    return json.loads((tmp_path / "toy/run-1/record.json").read_text())


@pytest.mark.parametrize(
    ("event", "kind", "text"),
    [
        ({"event": "died", "code": -9}, "killed", "SIGKILL"),
        ({"event": "died", "code": -9, "oom": None}, "killed", "SIGKILL (out of memory, most often)"),
        ({"event": "died", "code": -11}, "killed", "SIGSEGV"),
        ({"event": "died", "code": 3}, "killed", "exit code 3"),
        ({"event": "late"}, "timeout", "time_limit=0.5 minutes"),
    ],
)
def test_a_run_without_a_worker_gets_a_record_that_says_how_to_repeat_it(tmp_path, ended, event, kind, text):
    status, reason = ended(event, time_limit=0.5)
    found = written(tmp_path)
    assert status == found["status"] == "failed"
    assert found["error"]["kind"] == kind and text in found["error"]["message"] and text in reason
    assert found["error"]["repeat"] == f"python -m experiments.sweep retry {tmp_path}/toy run-1"
    assert not list((tmp_path / "toy/.claims").iterdir())


@pytest.mark.parametrize("status", ["completed", "diverged"])
def test_a_result_that_is_there_stands(tmp_path, ended, status):
    """The worker was killed between writing its record and saying so."""
    content = {"run_id": "run-1", "study": "toy", "status": status, "spec": {}}
    record.RunFolder(tmp_path / "toy/run-1").write_record(content)
    assert ended({"event": "died", "code": -9}) == (status, "")
    assert written(tmp_path)["status"] == status


def test_memory_is_not_blamed_for_a_kill_that_was_not_the_kernels(ended):
    status, reason = ended({"event": "died", "code": -9, "oom": False})
    assert status == "failed" and reason.endswith("killed by SIGKILL")


def test_a_run_that_another_process_has_by_now_is_left_to_it(tmp_path, ended):
    with acquire(tmp_path / "toy/.claims", "run-1"):
        assert ended({"event": "died", "code": -9}) is None
    assert not (tmp_path / "toy/run-1").exists()


def test_where_nothing_can_be_written_the_failure_is_reported_all_the_same(tmp_path, ended):
    (tmp_path / "toy").write_text("a file where the study should be")
    status, reason = ended({"event": "died", "code": -9})
    assert status == "failed" and "SIGKILL" in reason and "no record was written" in reason


def test_what_a_worker_says_is_taken_over(ended):
    error = {"kind": "ValueError", "message": "no"}
    event = {"event": "finished", "status": "failed", "error": error}
    assert ended(event) == ("failed", "ValueError: no")
    assert ended({"event": "interrupted"}) == ("preempted", "")


MIB = "OutOfMemoryError: CUDA out of memory. Tried to allocate {} MiB, of 79.2 GiB {} MiB is free"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("failed", "ValueError: no a-1"), ("failed", "ValueError: no b-2"), True),
        (("oom", MIB.format(20, 13.5)), ("oom", "OutOfMemoryError: Tried to allocate 1.2 GiB"), True),
        (("failed", "OSError: read 512 of 1024"), ("failed", "OSError: read 9 of 1024"), True),
        (("failed", "RuntimeError: at 0x7f3a"), ("failed", "RuntimeError: at 0x11bc"), True),
        (("failed", "ValueError: no"), ("failed", "TypeError: no"), False),
        (("failed", "ValueError: no rank"), ("failed", "ValueError: no layer"), False),
        (("failed", "x: y"), ("oom", "x: y"), False),
    ],
)
def test_kind_and_words_count_numbers_and_names_do_not(one, other, same):
    assert (fingerprint("a-1", *one) == fingerprint("b-2", *other)) is same


def failed(status, message="no luck", kind="ValueError"):
    return {"status": status, "error": {"kind": kind, "message": message}}


@pytest.mark.parametrize(
    ("endings", "found"),
    [
        ([failed("failed")] * 3, "ValueError: no luck"),
        ([failed("oom", "1 MiB"), failed("oom", "2 GiB"), failed("oom", "3 MiB")], "ValueError: 3 MiB"),
        ([failed("failed")] * 2, None),
        ([failed("failed")] * 3 + [failed("completed")], None),
        ([failed("failed")] * 3 + [failed("diverged")], None),
        ([failed("failed")] * 3 + [failed("failed", kind="TypeError")], None),
        ([], None),
    ],
)
def test_the_cause_is_given_when_enough_failed_the_same_way_and_nothing_else_happened(endings, found):
    assert common_cause((f"run-{i}", record) for i, record in enumerate(endings)) == found
