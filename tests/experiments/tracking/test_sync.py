"""`sweep sync`: W&B is brought up to the run folders, row by row, and nothing is there twice."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments import record, tracking
from experiments.spec import RunSpec, Train
from experiments.sweep.lease import acquire

ROOT = Path(record.__file__).resolve().parents[1]
AXES = {
    "delta": "lora", "scaling": "alpha_over_r", "storage": "fp32", "grouping": "uniform",
    "controller": "none",
}  # fmt: skip
ROWS = [{"step": step, "loss": 1 / step, "lr": 0.01} for step in range(1, 8)]
ROWS.insert(4, {"step": 4, "validation/accuracy": 0.5})
ROWS.append({"step": 7, "validation/accuracy": 0.75})


def spec(seed=0, tracker=None):
    return RunSpec(
        study="demo", variant="lora", method="adapters", r=2, alpha=4.0, targets="qv", axes=AXES, options={},
        model="tiny", model_options={}, dataset="toy", dataset_options={}, lr=0.01, seed=seed,
        train=Train(steps=7), tracker={"name": "none"} if tracker is None else tracker,
    )  # fmt: skip


@pytest.fixture
def study(tmp_path):
    return tmp_path / "runs" / "demo"


@pytest.fixture
def add(study):
    """Leave a run folder as a run does: `add(seed, rows=..., status=...)`; no record without a status."""

    def made(seed=0, *, rows=ROWS, status="completed", tracker=None):
        run = spec(seed, tracker)
        folder = record.RunFolder(study / run.run_id("0"))
        folder.write_spec(run.as_record())
        folder.history.unlink(missing_ok=True)
        with record.History(folder.history) as history:
            for row in rows:
                history.append(row)
        if status:
            facts = {"run_id": folder.path.name, "study": "demo", "spec": run.as_record(), "status": status}
            if status == "completed":
                facts["metrics"] = {"test/accuracy": 0.625}
            folder.write_record({**facts, "env": {"git_sha": "abc"}, "cost": {"trainable_parameters": 96}})
        return folder

    return made


@pytest.fixture
def sync(command, study):
    """The command on the study: `sync("--check")`."""
    return lambda *words: command("sync", str(study), "--timeout", "5", *words)


@pytest.fixture
def track(study):
    """Log rows of a run with the tracker itself: `track(folder, rows, {"mode": "offline"})`."""

    def log(folder, rows, options=None, *, seed=0, end="completed"):
        tracker = tracking.make({"name": "wandb", **(options or {})})
        run, labels = spec(seed), tracking.labels_of(spec(seed))
        tracker.start(folder.path.name, run.as_record(), labels=labels, folder=folder.path)
        for row in rows:
            tracker.log(row, row["step"])
        if end:
            tracker.finish(end)
        return tracker

    return log


def assert_same(run, rows=ROWS):
    """Row by row: none is missing, none is there twice, each has the values of the file."""
    expected = [
        {**{key: value for key, value in row.items() if key != "step"}, "train/step": row["step"]}
        for row in rows
    ]
    in_order = lambda rows: sorted(rows, key=lambda row: (row["train/step"], sorted(row)))  # noqa: E731
    assert in_order(run.rows) == in_order(expected)


def test_what_was_never_tracked_arrives_whole_and_a_second_time_adds_nothing(online, add, sync):
    folders = [add(seed) for seed in range(2)]
    code, shown = sync()
    assert code == 0 and "2 brought up" in shown and "W&B has no such run" in shown
    for folder in folders:
        run = online.runs[folder.path.name]
        assert_same(run)
        assert (run.project, run.upsert["groupName"], run.upsert["jobType"]) == (
            "demo",
            "lora-r2-qv-toy",
            "train",
        )
        assert run.upsert["displayName"].startswith("lora-r2-qv-toy-s")
        assert run.upsert["tags"] == ["demo", "lora", "toy", "tiny"]
        assert run.config["r"] == 2 and run.config["env"] == {"git_sha": "abc"}
        assert run.summary["test/accuracy"] == 0.625 and run.summary["trainable_parameters"] == 96
        assert run.summary["validation/accuracy"] == 0.75 and run.summary["status"] == "completed"
        assert run.state == "finished"
    upserts = online.asked["UpsertBucket"]
    code, shown = sync()
    assert code == 0 and "2 in step" in shown
    assert online.asked["UpsertBucket"] == upserts, "a run that lacks nothing is not even opened"
    assert_same(online.runs[folders[0].path.name])
    assert sync("--check") == (0, shown)


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [("failed", 1, "failed"), ("oom", 1, "failed"), ("diverged", 0, "finished"), (None, 143, "failed")],
)
def test_a_run_gets_the_state_that_its_record_tells(online, add, sync, status, code, state):
    folder = add(status=status, rows=[*ROWS, {"step": 8, "loss": float("nan")}])
    assert sync()[0] == 0
    run = online.runs[folder.path.name]
    assert (run.exit_codes, run.state) == ([code], state)
    assert run.summary["status"] == (status or "preempted")
    assert run.rows[-1] == {"train/step": 8, "nonfinite": ["loss"]}
    assert sync()[0] == 0 and len(run.lines) == len(ROWS) + 1


def test_gaps_anywhere_are_filled_and_what_was_logged_stays(online, add, sync, track):
    folder = add(status=None, rows=[])
    track(folder, [ROWS[0], ROWS[3], ROWS[4]], end="preempted")
    add()
    run = online.runs[folder.path.name]
    before = dict(run.lines)
    code, shown = sync("--dry-run")
    assert code == 0 and "6 rows missing (steps 2 to 7)" in shown and run.lines == before
    assert sync("--check")[0] == 1 and run.lines == before
    code, shown = sync()
    assert code == 0 and "1 brought up" in shown
    assert {at: run.lines[at] for at in before} == before
    assert_same(run)
    assert run.summary["train/step"] == 7 and run.state == "finished"


def test_rows_that_w_and_b_has_too_much_are_named_and_not_taken_for_missing_ones(online, add, sync, track):
    folder = add()
    track(folder, ROWS)
    run = online.runs[folder.path.name]
    at = max(run.lines)
    run.lines[at + 1] = {**run.lines[0], "_step": at + 1}
    run.lines[at + 2] = {"_step": at + 2, "train/step": 9, "loss": 1.0}
    run.lines[2]["loss"] = 7.0
    code, shown = sync("--check")
    assert code == 1
    for part in (
        "1 row more than once (step 1)",
        "1 row not in history.jsonl (step 9)",
        "1 row with other values",
    ):
        assert part in shown
    code, shown = sync()
    assert code == 0 and "more than once" in shown and len(run.lines) == at + 3


def test_a_server_that_does_not_show_all_that_it_took_is_not_added_to(online, add, sync, track, monkeypatch):
    folder = add()
    track(folder, ROWS)
    monkeypatch.setattr("experiments.tracking._mirror.PATIENCE", 0.2)
    online.hidden = 3
    code, shown = sync()
    assert code == 1 and "W&B took 9 rows and shows 6 of them so far" in shown
    online.hidden = 0
    assert sync()[0] == 0
    assert_same(online.runs[folder.path.name])


def test_a_run_under_way_is_left_to_its_tracker(online, add, sync, study):
    folder = add(status=None)
    with acquire(study / ".claims", folder.path.name):
        for words in ([], ["--check"], ["--dry-run"]):
            code, shown = sync(*words)
            assert code == 0 and "under way" in shown and folder.path.name not in online.runs


def test_offline_logs_can_be_checked_and_are_then_brought_up_once(online, add, sync, track, client):
    folder = add(status=None)
    track(folder, ROWS[:4], {"mode": "offline"}, end="preempted")  # it adds what the history has already
    client.teardown()
    assert sync("--check", "--offline")[0] == 0
    add(rows=[*ROWS, {"step": 8, "loss": 0.1}])
    code, shown = sync("--check", "--offline")
    assert code == 1 and "1 row missing (step 8)" in shown and not online.runs
    assert sync()[0] == 0
    assert_same(online.runs[folder.path.name], [*ROWS, {"step": 8, "loss": 0.1}])
    lines = len(online.runs[folder.path.name].lines)
    wandb = [sys.executable, "-m", "wandb", "sync", "--yes", *map(str, folder.path.glob("wandb/*run-*"))]
    done = subprocess.run(wandb, check=True, capture_output=True, text=True, timeout=120)
    assert "Skipped" in done.stdout + done.stderr
    assert len(online.runs[folder.path.name].lines) == lines, "W&B's own sync passes over these logs"


def test_project_and_entity_are_the_runs_own_unless_said_otherwise(online, add, sync, monkeypatch):
    own = add(0, tracker={"name": "wandb", "project": "mine", "mode": "offline"})
    other = add(1)
    sync("--entity", "me")
    assert [online.runs[f.path.name].project for f in (own, other)] == ["mine", "demo"]
    online.runs.clear()
    assert sync("--project", "all")[0] == 0
    assert {run.project for run in online.runs.values()} == {"all"}


# --- what can go wrong with the command


def test_without_an_account_the_command_says_what_to_do(client, add, sync):
    add()
    code, shown = sync()
    assert code == 2 and "no API key for W&B: run `wandb login`" in shown


def test_a_server_that_does_not_answer_ends_the_command_with_a_sentence(online, add, sync):
    add()
    online.shutdown()
    online.server_close()
    code, shown = sync("--timeout", "2")
    assert code == 2 and "W&B does not answer" in shown and online.url in shown


def test_a_server_lost_on_the_way_ends_the_command_early(online, add, sync, monkeypatch):
    folders = [add(seed) for seed in range(5)]
    from experiments.tracking import _session

    begin = _session.begin

    def begin_and_lose(arguments, **options):
        session = begin(arguments, **options)
        online.failing = True
        return session

    monkeypatch.setattr(_session, "begin", begin_and_lose)
    code, shown = sync("--timeout", "2")
    assert code == 1 and "3 failed" in shown and folders[4].path.name not in shown
    online.failing = False
    monkeypatch.setattr(_session, "begin", begin)
    assert sync()[0] == 0
    for folder in folders:
        assert_same(online.runs[folder.path.name])


def test_a_study_without_rows_has_nothing_to_sync(online, add, sync, study):
    folder = add(status=None)
    folder.history.unlink()
    assert sync() == (0, f"There is nothing to sync: no run of {study} has logged anything yet.\n")


def test_mistakes_are_answered(client, add, sync, study):
    assert sync()[0] == 2  # no such study
    add()
    assert "with --check" in sync("--offline")[1]
    with pytest.raises(SystemExit) as end:
        sync("--check", "--dry-run")
    assert end.value.code == 2


def test_one_run_that_cannot_be_read_does_not_keep_the_others_from_w_and_b(online, add, sync):
    broken, good = add(0), add(1)
    broken.spec.write_text("{")
    code, shown = sync()
    assert code == 1 and "1 failed" in shown
    assert_same(online.runs[good.path.name])
