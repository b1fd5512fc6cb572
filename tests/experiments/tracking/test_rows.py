"""Rows compared one by one, and the reader of W&B's own log against W&B's own tool."""

import json
import subprocess
import sys

import pytest

from experiments import tracking
from experiments.errors import UserError
from experiments.tracking import _log
from experiments.tracking._rows import STEP, Difference, compare_rows, identity, last_values, own, shown


def row(step, **values):
    return {STEP: step, **values}


def test_a_row_is_known_by_its_step_and_its_columns_and_not_by_its_values():
    assert identity(row(3, loss=1.0, lr=0.1)) == identity(row(3, lr=0.2, loss=2.0))
    assert identity(row(3, loss=1.0)) != identity(row(3, accuracy=1.0))
    assert identity(row(3, loss=1.0)) != identity(row(4, loss=1.0))


def test_a_row_is_logged_as_the_history_holds_it():
    raw = {"step": 5, "loss": float("nan"), "lr": 0.1, "unknown": None}
    written = {"step": 5, "lr": 0.1, "nonfinite": ["loss"]}
    assert shown(raw) == shown(written) == {STEP: 5, "lr": 0.1, "nonfinite": ["loss"]}
    assert own({"_step": 3, STEP: 5, "lr": 0.1, "loss": None}) == {STEP: 5, "lr": 0.1}


def test_a_copy_is_compared_row_by_row():
    local = [row(1, loss=1.0), row(2, loss=0.5), row(2, accuracy=0.5), row(3, loss=0.25), row(4, loss=0.2)]
    copy = [
        row(4, loss=0.2 * (1 + 1e-9)), row(1, loss=1.0), row(1, loss=1.0), row(2, loss=0.7), row(9, loss=0.1),
        {"not ours": 1},
    ]  # fmt: skip
    found = compare_rows(local, copy)
    assert found.missing == [row(2, accuracy=0.5), row(3, loss=0.25)]
    assert found.repeated == [(1, ("loss",))]
    assert found.foreign == [(9, ("loss",))]
    assert found.changed == [(2, ("loss",))]
    assert found.describe() == (
        "2 rows missing (steps 2 to 3), 1 row more than once (step 1), 1 row not in history.jsonl (step 9), "
        "1 row with other values (step 2)"
    )
    assert compare_rows(local, reversed(local)) == Difference() and not Difference().describe()


def test_a_row_computed_again_with_other_ranks_is_changed_and_not_another():
    once, again = row(2, budget=9, **{"rank/query": 3}), row(2, budget=9, **{"rank/value": 3})
    assert compare_rows([once], [again]) == Difference(changed=[(2, ("budget",))])
    assert compare_rows([once], [dict(once)]) == Difference()


def test_the_summary_is_that_of_the_last_step_whatever_came_last():
    rows = [row(1, loss=1.0, lr=0.1), row(4, loss=0.2), row(2, loss=0.5, accuracy=0.3)]
    assert last_values(rows) == {STEP: 4, "loss": 0.2, "lr": 0.1, "accuracy": 0.3}


# --- the log


@pytest.fixture
def log(client, tmp_path):
    """A log of 700 rows, more than one block of 32 KiB."""
    tracker = tracking.make({"name": "wandb", "mode": "offline"})
    tracker.start("run", {"study": "demo"}, labels=tracking.Labels("g", "n"), folder=tmp_path / "run")
    for step in range(700):
        tracker.log({"loss": 1 / (step + 1), "validation/accuracy": step / 7}, step)
    tracker.finish("completed")
    client.teardown()
    (path,) = _log.logs(tmp_path / "run")
    return path


def test_the_reader_agrees_with_w_and_bs_own(log):
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode and "No such command" in done.stderr:
        pytest.skip("this version of wandb has no `leet inspect`")
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    theirs = [own(entry["history"]["item"]) for entry in entries if entry["type"] == "history"]
    assert len(theirs) == 700
    assert _log.rows_in(log) == theirs


@pytest.mark.parametrize("kept", [0, 5, 7, 20_000, 40_000])
def test_a_torn_log_is_read_up_to_where_it_is_torn(log, kept):
    whole = _log.rows_in(log)
    log.write_bytes(log.read_bytes()[:kept])
    rows = _log.rows_in(log)
    assert rows == whole[: len(rows)]
    assert (len(rows) > 0) == (kept >= 20_000)


def test_damage_in_the_middle_ends_the_reading_and_is_not_passed_on(log):
    whole = _log.rows_in(log)
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    rows = _log.rows_in(log)
    assert 0 < len(rows) < len(whole) and rows == whole[: len(rows)]


def test_another_file_is_refused(tmp_path):
    (tmp_path / "run-x.wandb").write_bytes(b"SQLite format 3")
    with pytest.raises(UserError, match="not a log of W&B"):
        _log.rows_in(tmp_path / "run-x.wandb")
