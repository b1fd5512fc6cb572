"""W&B: what reaches it online and offline, and that no trouble of its can harm a run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import record, tracking
from experiments.tracking import _log
from experiments.tracking import wandb as backend

ROOT = Path(record.__file__).resolve().parents[1]
SPEC = {"study": "demo", "variant": "lora", "r": 8, "train": {"steps": 3}}
RUN = "lora-r8-s0-1a2b"


@pytest.fixture
def begin(tmp_path, notes):
    """Make a tracker and start a run with it."""

    def start(options, *, run_id=RUN, phase="run"):
        tracker = tracking.make({"name": "wandb", **options}, notify=notes.append)
        folder = tmp_path / "demo" / run_id
        labels = tracking.Labels("lora-r8", run_id[:10], tags=["demo", "lora"], phase=phase)
        tracker.start(run_id, SPEC, labels=labels, folder=folder)
        return tracker

    return start


def logged(folder):
    """The protobuf records of the run's newest W&B log, after the client's service has closed it."""
    import wandb

    wandb.teardown()
    return list(_log.records(_log.logs(folder)[-1]))


def history(folder):
    """The logged rows of all logs of a run, after the client's service has closed them."""
    import wandb

    wandb.teardown()
    return _log.rows(folder)


# --- offline


def test_an_offline_run_holds_its_rows_and_names(client, begin, tmp_path, notes, events):
    tracker = begin({"mode": "offline"}, phase="tune")
    for step in (5, 10):
        tracker.log({"step": step, "loss": 1 / step}, step)
    tracker.summary({"test/accuracy": 0.5})
    tracker.finish("diverged")
    folder = tmp_path / "demo" / RUN
    assert history(folder) == [{"loss": 0.2, "train/step": 5}, {"loss": 0.1, "train/step": 10}]
    entries = {entry.WhichOneof("record_type"): entry for entry in logged(folder)}
    run = entries["run"].run
    assert (run.run_id, run.display_name, run.run_group) == (RUN, "lora-r8-s0", "lora-r8")
    assert (run.project, run.job_type, list(run.tags)) == ("demo", "tune", ["demo", "lora"])
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {key: config[key] for key in SPEC} == SPEC
    metrics = [entry.metric for entry in logged(folder) if entry.HasField("metric")]
    assert any(metric.glob_name == "*" and metric.step_metric == "train/step" for metric in metrics)
    assert entries["exit"].exit.exit_code == 0 and notes == [] and events(folder) == []


def test_the_runs_of_a_pack_are_logged_side_by_side(client, begin, tmp_path):
    ids = [f"lora-r8-s{seed}-1a2b" for seed in range(3)]
    running = [begin({"mode": "offline"}, run_id=run_id) for run_id in ids]
    for step in range(1, 4):
        for seed, tracker in enumerate(running):
            tracker.log({"loss": seed + step}, step)
    for tracker in running:
        tracker.finish("completed")
    for seed, run_id in enumerate(ids):
        assert [row["loss"] for row in history(tmp_path / "demo" / run_id)] == [seed + 1, seed + 2, seed + 3]


@pytest.mark.parametrize(("status", "code"), [("failed", 1), ("preempted", 143), ("completed", 0)])
def test_the_exit_code_is_said_and_not_guessed(client, begin, tmp_path, status, code):
    tracker = begin({"mode": "offline"})
    tracker.finish(status)
    exits = [e.exit.exit_code for e in logged(tmp_path / "demo/lora-r8-s0-1a2b") if e.HasField("exit")]
    assert exits == [code]


def in_a_process(folder, body):
    """Run a script that has a started tracker, and give back how it ended."""
    script = (
        "import os, pathlib, resource, signal, time\nfrom experiments import tracking\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        "tracker = tracking.make({'name': 'wandb', 'mode': 'offline'})\n"
        f"tracker.start('run', {SPEC!r}, labels=tracking.Labels('g', 'n'), folder=folder)\n" + body
    )
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=120, check=False)


def test_rows_older_than_the_flush_interval_survive_kill_9(client, tmp_path):
    body = (
        "for step in range(50): tracker.log({'loss': 1.0}, step)\n"
        "time.sleep(4)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    assert in_a_process(tmp_path / "run", body).returncode == -signal.SIGKILL
    assert len(history(tmp_path / "run")) == 50


def test_a_disk_that_fills_up_does_not_fail_the_run(client, tmp_path):
    """The limit on file size is set in the client's service too, which inherits it."""
    script = (
        "import pathlib, resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from experiments import tracking\n"
        "tracker = tracking.make({'name': 'wandb', 'mode': 'offline'})\n"
        f"tracker.start('run', {SPEC!r}, labels=tracking.Labels('g', 'n'), folder=pathlib.Path('run'))\n"
        "for step in range(3000): tracker.log({'loss': 1.0}, step)\n"
        "tracker.finish('completed')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0
    (log,) = tmp_path.glob("run/wandb/offline-run-*/run-*.wandb")
    assert log.stat().st_size <= 20_000  # it was full, and 3000 rows need more


def test_disabled_leaves_nothing_behind(client, begin, tmp_path, notes, events):
    tracker = begin({"mode": "disabled"})
    tracker.log({"loss": 1.0}, 1)
    tracker.finish("completed")
    assert _log.logs(tmp_path / "demo" / RUN) == [] and notes == []
    assert events(tmp_path / "demo" / RUN) == []


def test_an_offline_run_that_goes_on_logs_what_its_earlier_log_lacks_and_nothing_else(
    client, begin, tmp_path
):
    """The first process was killed after row 4, of which its log holds three."""
    folder = tmp_path / "demo" / RUN
    first = begin({"mode": "offline"})
    for step in (1, 2, 3):
        first.log({"loss": 1.0}, step)
    first.finish("preempted")
    with record.History(folder / "history.jsonl") as rows:
        for step in range(1, 7):
            rows.append({"step": step, "loss": 1.0})
    client.teardown()
    second = begin({"mode": "offline"})
    for step in (3, 5, 6):
        second.log({"loss": 1.0}, step)
    second.finish("completed")
    assert sorted(row["train/step"] for row in history(folder)) == [1, 2, 3, 4, 5, 6]
    assert len(_log.logs(folder)) == 2


# --- online


def steps(run):
    return [row["train/step"] for row in run.rows]


def test_an_online_run_arrives_with_rows_group_and_exit_code(online, begin, notes):
    tracker = begin({})
    for step in range(1, 31):
        tracker.log({"step": step, "loss": 1 / step}, step)
    tracker.summary({"test/accuracy": 0.5})
    tracker.finish("failed")
    run = online.runs[RUN]
    assert steps(run) == list(range(1, 31))
    assert run.rows[-1]["loss"] == pytest.approx(1 / 30) and "step" not in run.rows[-1]
    assert (run.upsert["groupName"], run.upsert["jobType"], run.project) == ("lora-r8", "train", "demo")
    assert run.config["train"] == {"steps": 3}
    assert run.summary["test/accuracy"] == 0.5 and run.summary["status"] == "failed"
    assert run.exit_codes == [1]
    assert notes == [f"W&B: {online.url}/me/demo"]


def test_an_outage_in_mid_run_delays_rows_and_loses_none(online, begin, notes):
    tracker = begin({})
    tracker.log({"loss": 1.0}, 0)
    online.failing = True
    for step in range(1, 101):
        tracker.log({"loss": 1.0}, step)  # returns although nothing is taken
    while not online.refused:
        time.sleep(0.05)
    online.failing = False
    tracker.finish("completed")
    assert steps(online.runs[RUN]) == list(range(101)) and len(notes) == 1


def test_a_server_gone_at_the_end_is_waited_for_no_longer_than_asked(online, begin, notes, tmp_path, events):
    tracker = begin({"timeout": 2})
    online.failing = True
    tracker.log({"loss": 1.0}, 1)
    begun = time.monotonic()
    tracker.finish("completed")
    assert time.monotonic() - begun < 60
    folder = tmp_path / "demo/lora-r8-s0-1a2b"
    assert "tracker wandb stopped" in notes[-1] and f"experiments.sweep sync {folder.parent}" in notes[-1]
    assert events(folder) == ["tracker wandb stopped"]
    assert history(folder) == [{"loss": 1, "train/step": 1}]


def test_a_resumed_run_sends_nothing_twice(online, begin):
    tracker = begin({})
    for step in range(1, 6):
        tracker.log({"loss": 1.0}, step)
    tracker.log({"validation/loss": 1.0}, 5)
    tracker.finish("preempted")
    tracker = begin({})
    for step in range(3, 9):  # from a checkpoint after step 2
        tracker.log({"loss": 1.0}, step)
        if step in (5, 8):
            tracker.log({"validation/loss": 1.0}, step)
    tracker.finish("completed")
    run = online.runs[RUN]
    assert [row["train/step"] for row in run.rows if "loss" in row] == list(range(1, 9))
    assert [row["train/step"] for row in run.rows if "validation/loss" in row] == [5, 8]
    assert run.exit_codes == [143, 0] and run.state == "finished"


def test_a_resumed_run_trusts_the_last_step_of_a_server_that_does_not_show_all(
    online, begin, tmp_path, events
):
    tracker = begin({})
    for step in range(1, 6):
        tracker.log({"loss": 1.0}, step)
    tracker.finish("preempted")
    online.hidden = 2
    tracker = begin({"timeout": 1})
    for step in range(3, 9):
        tracker.log({"loss": 1.0}, step)
    tracker.finish("completed")
    assert steps(online.runs[RUN]) == list(range(1, 9))
    assert events(tmp_path / "demo" / RUN) == ["tracker wandb trusts the last step"]


def test_rows_that_a_killed_process_never_sent_are_added_at_the_end(online, begin, tmp_path):
    """The history holds what W&B's client had not yet passed on."""
    tracker = begin({})
    for step in (1, 2):
        tracker.log({"loss": 1.0}, step)
    tracker.finish("preempted")
    with record.History(tmp_path / "demo" / RUN / "history.jsonl") as rows:
        for step in range(1, 8):
            rows.append({"step": step, "loss": 1.0})
    tracker = begin({})
    for step in (6, 7):
        tracker.log({"loss": 1.0}, step)
    tracker.finish("completed")
    run = online.runs[RUN]
    assert steps(run) == [1, 2, 6, 7, 3, 4, 5]
    assert run.summary["train/step"] == 7, "the summary is that of the last step, not of the last row sent"


def test_another_attempt_of_a_run_goes_on_in_the_same_wandb_run(online, begin, tmp_path):
    """As after memory ran out: the pack begins again, in the same process and with the same tracker."""
    tracker = begin({})
    tracker.log({"loss": 1.0}, 1)
    labels = tracking.Labels("lora-r8", "n")
    tracker.start(RUN, SPEC, labels=labels, folder=tmp_path / "demo" / RUN)
    for step in (1, 2):
        tracker.log({"loss": 1.0}, step)
    tracker.finish("completed")
    assert steps(online.runs[RUN]) == [1, 2] and online.runs[RUN].exit_codes == [0]


def test_an_unreachable_server_is_tried_once_and_told_once(
    online, begin, notes, tmp_path, events, monkeypatch
):
    online.server_close()
    online.shutdown()
    ids = [RUN, "lora-r8-s1-1a2b"]
    tried = []
    log_in = backend.Wandb._log_in_and_begin
    monkeypatch.setattr(backend.Wandb, "_log_in_and_begin", lambda *a: tried.append(a) or log_in(*a))
    running = [begin({"timeout": 2}, run_id=run_id) for run_id in ids]
    assert len(tried) == 1
    for tracker in running:
        tracker.log({"loss": 1.0}, 1)
        tracker.finish("completed")
    assert len(notes) == 1 and "experiments.sweep sync" in notes[0]
    for run_id in ids:
        assert events(tmp_path / "demo" / run_id) == ["tracker wandb went offline"]
        assert history(tmp_path / "demo" / run_id) == [{"loss": 1, "train/step": 1}]


def test_without_an_account_the_run_is_logged_offline_and_nobody_is_asked(
    client, begin, notes, tmp_path, events
):
    tracker = begin({"mode": "online"})
    tracker.finish("completed")
    assert len(notes) == 1 and "wandb login" in notes[0]
    assert events(tmp_path / "demo" / RUN) == ["tracker wandb went offline"]
