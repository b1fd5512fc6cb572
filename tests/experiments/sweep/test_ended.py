"""What the engine writes for a run whose worker cannot: never over a result, never into another's hands."""

import json
from types import SimpleNamespace

import pytest

from experiments import record
from experiments.config.settings import Terms
from experiments.sweep.ended import settle
from experiments.sweep.lease import claim
from experiments.sweep.pool import Cell, Outcome

SPEC = SimpleNamespace(as_record=lambda: {"study": "toy", "variant": "lora"})


def ended(tmp_path, event, **terms):
    return settle(Outcome(Cell("cell", SPEC), event, 1.0), tmp_path / "toy", Terms(**terms))


def written(tmp_path):
    return json.loads((tmp_path / "toy/cell/record.json").read_text())


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
def test_a_run_without_a_worker_gets_a_record_that_says_how_to_repeat_it(tmp_path, event, kind, text):
    status, reason = ended(tmp_path, event, time_limit=0.5)
    found = written(tmp_path)
    assert status == found["status"] == "failed"
    assert found["error"]["kind"] == kind and text in found["error"]["message"] and text in reason
    assert found["error"]["repeat"] == f"python -m experiments.sweep retry {tmp_path}/toy cell"
    assert not list((tmp_path / "toy/.claims").iterdir())


@pytest.mark.parametrize("status", ["completed", "diverged"])
def test_a_result_that_is_there_stands(tmp_path, status):
    """The worker was killed between writing its record and saying so."""
    content = {"run_id": "cell", "study": "toy", "status": status, "spec": {}}
    record.RunFolder(tmp_path / "toy/cell").write_record(content)
    assert ended(tmp_path, {"event": "died", "code": -9}) == (status, "")
    assert written(tmp_path)["status"] == status


def test_memory_is_not_blamed_for_a_kill_that_was_not_the_kernels(tmp_path):
    status, reason = ended(tmp_path, {"event": "died", "code": -9, "oom": False})
    assert status == "failed" and reason.endswith("killed by SIGKILL")


def test_a_run_that_another_process_has_by_now_is_left_to_it(tmp_path):
    with claim(tmp_path / "toy/.claims", "cell"):
        assert ended(tmp_path, {"event": "died", "code": -9}) is None
    assert not (tmp_path / "toy/cell").exists()


def test_where_nothing_can_be_written_the_failure_is_told_all_the_same(tmp_path):
    (tmp_path / "toy").write_text("a file where the study should be")
    status, reason = ended(tmp_path, {"event": "died", "code": -9})
    assert status == "failed" and "SIGKILL" in reason and "no record was written" in reason


def test_what_a_worker_says_is_taken_over(tmp_path):
    error = {"kind": "ValueError", "message": "no"}
    event = {"event": "finished", "status": "failed", "error": error}
    assert ended(tmp_path, event) == ("failed", "ValueError: no")
    assert ended(tmp_path, {"event": "interrupted"}) == ("preempted", "")
