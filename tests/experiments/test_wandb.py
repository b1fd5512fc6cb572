"""W&B: what reaches it online and offline, and that no trouble of its can harm a run."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from experiments import record, trackers
from experiments.trackers import wandb as backend

ROOT = Path(record.__file__).resolve().parents[1]
SPEC = {"study": "demo", "variant": "lora", "r": 8, "train": {"steps": 3}}
KEY = "local-" + "a" * 40


@pytest.fixture
def told():
    """The lines that a person would see."""
    return []


@pytest.fixture
def begin(tmp_path, told):
    """Make a tracker and start a run with it."""

    def start(options, *, run_id="lora-r8-s0-1a2b", phase="run"):
        tracker = trackers.make({"name": "wandb", **options}, tell=told.append)
        folder = tmp_path / "demo" / run_id
        names = {"group": "lora-r8", "name": run_id[:10], "tags": ["demo", "lora"]}
        tracker.start(run_id, SPEC, folder=folder, phase=phase, **names)
        return tracker

    return start


@pytest.fixture
def client(monkeypatch, tmp_path):
    """W&B's client with no settings from elsewhere, its service ended after the test."""
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(backend._Server, "unreachable", None)
    monkeypatch.setattr(backend._Server, "announced", False)
    monkeypatch.setattr(backend._Server, "open_runs", 0)
    wandb = pytest.importorskip("wandb")
    yield wandb
    wandb.teardown()


@pytest.fixture
def online(client, wandb_server, monkeypatch):
    """The client, logged in to the stand-in server."""
    monkeypatch.setenv("WANDB_BASE_URL", wandb_server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    return wandb_server


def events(folder):
    return [row["event"] for row in record.read_history(record.RunFolder(folder).events)]


# --- reading the log that the client leaves


def chunks(data):
    """The pieces of a W&B log: 32 KiB blocks of chunks with a 7-byte header; a torn tail ends the list."""
    at = 7  # ":W&B", a magic number, a version
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no room for a header: the rest of the block is padding
            at += 32768 - at % 32768
            continue
        crc, size, kind = struct.unpack_from("<IHB", data, at)
        piece = data[at + 7 : at + 7 + size]
        if len(piece) < size or zlib.crc32(piece, zlib.crc32(bytes([kind]))) != crc:
            return
        yield kind, piece
        at += 7 + size


def logged(folder):
    """The protobuf records of the run's W&B log, after the client's service has closed it."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()
    path = max(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    assert path.read_bytes()[:4] == b":W&B"
    found, parts = [], b""
    for kind, piece in chunks(path.read_bytes()):  # kinds: 1 whole, 2 first, 3 middle, 4 last
        parts += piece
        if kind in (1, 4):
            found.append(Record.FromString(parts))
            parts = b""
    return found


def history(folder):
    """The logged rows, without W&B's own columns."""
    rows = []
    for entry in logged(folder):
        if entry.WhichOneof("record_type") == "history":
            pairs = {(item.key or "/".join(item.nested_key)): item.value_json for item in entry.history.item}
            rows.append({key: json.loads(value) for key, value in pairs.items() if not key.startswith("_")})
    return rows


# --- offline


def test_an_offline_run_holds_its_rows_and_names(client, begin, tmp_path, told):
    tracker = begin({"mode": "offline"}, phase="tune")
    for step in (5, 10):
        tracker.log({"step": step, "loss": 1 / step}, step)
    tracker.summary({"test/accuracy": 0.5})
    tracker.finish("diverged")
    folder = tmp_path / "demo" / "lora-r8-s0-1a2b"
    assert history(folder) == [{"loss": 0.2, "train/step": 5}, {"loss": 0.1, "train/step": 10}]
    entries = {entry.WhichOneof("record_type"): entry for entry in logged(folder)}
    run = entries["run"].run
    assert (run.run_id, run.display_name, run.run_group) == ("lora-r8-s0-1a2b", "lora-r8-s0", "lora-r8")
    assert (run.project, run.job_type, list(run.tags)) == ("demo", "tune", ["demo", "lora"])
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {key: config[key] for key in SPEC} == SPEC
    metrics = [entry.metric for entry in logged(folder) if entry.HasField("metric")]
    assert any(metric.glob_name == "*" and metric.step_metric == "train/step" for metric in metrics)
    assert entries["exit"].exit.exit_code == 0 and told == [] and events(folder) == []


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
        "import os, pathlib, resource, signal, time\nfrom experiments import trackers\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        "tracker = trackers.make({'name': 'wandb', 'mode': 'offline'})\n"
        f"tracker.start('run', {SPEC!r}, group='g', name='n', tags=[], folder=folder)\n" + body
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
        "from experiments import trackers\n"
        "tracker = trackers.make({'name': 'wandb', 'mode': 'offline'})\n"
        f"tracker.start('run', {SPEC!r}, group='g', name='n', tags=[], folder=pathlib.Path('run'))\n"
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


# --- online


def test_an_online_run_arrives_with_rows_group_and_exit_code(online, begin, told):
    tracker = begin({})
    for step in range(1, 31):
        tracker.log({"step": step, "loss": 1 / step}, step)
    tracker.summary({"test/accuracy": 0.5})
    tracker.finish("failed")
    assert [row["train/step"] for row in online.rows] == list(range(1, 31))
    assert online.rows[-1]["loss"] == pytest.approx(1 / 30) and "step" not in online.rows[-1]
    first = online.upserts[0]
    assert (first["name"], first["groupName"], first["jobType"]) == ("lora-r8-s0-1a2b", "lora-r8", "train")
    assert json.loads(first["config"])["train"]["value"] == {"steps": 3}
    assert online.exit_codes == [1]
    assert told == [f"W&B: {online.url}/me/demo"]


def test_an_outage_in_mid_run_delays_rows_and_loses_none(online, begin, told):
    tracker = begin({})
    tracker.log({"loss": 1.0}, 0)
    online.failing = True
    for step in range(1, 101):
        tracker.log({"loss": 1.0}, step)  # returns although nothing is taken
    while not online.refused:
        time.sleep(0.05)
    online.failing = False
    tracker.finish("completed")
    assert [row["train/step"] for row in online.rows] == list(range(101)) and len(told) == 1


def test_a_server_gone_at_the_end_is_waited_for_no_longer_than_asked(online, begin, told, tmp_path):
    tracker = begin({"timeout": 2})
    online.failing = True
    tracker.log({"loss": 1.0}, 1)
    begun = time.monotonic()
    tracker.finish("completed")
    assert time.monotonic() - begun < 15
    assert "tracker wandb stopped" in told[-1]
    folder = tmp_path / "demo/lora-r8-s0-1a2b"
    assert events(folder) == ["tracker wandb stopped"]
    assert history(folder) == [{"loss": 1, "train/step": 1}]  # on disk, for wandb sync


def test_a_resumed_run_sends_nothing_twice(online, begin):
    tracker = begin({})
    for step in range(1, 6):
        tracker.log({"loss": 1.0}, step)
    tracker.finish("preempted")
    online.keep_for_resume("lora-r8-s0-1a2b")
    tracker = begin({})
    for step in range(3, 9):  # from a checkpoint after step 2
        tracker.log({"loss": 1.0}, step)
    tracker.finish("completed")
    assert [row["train/step"] for row in online.rows] == list(range(1, 9))


def test_an_unreachable_server_is_tried_once_and_told_once(online, begin, told, tmp_path, monkeypatch):
    online.server_close()
    online.shutdown()
    ids = ["lora-r8-s0-1a2b", "lora-r8-s1-1a2b"]
    tried = []
    log_in = backend.Wandb._log_in_and_begin
    monkeypatch.setattr(backend.Wandb, "_log_in_and_begin", lambda *a: tried.append(a) or log_in(*a))
    running = [begin({"timeout": 2}, run_id=run_id) for run_id in ids]
    assert len(tried) == 1
    for tracker in running:
        tracker.log({"loss": 1.0}, 1)
        tracker.finish("completed")
    assert len(told) == 1 and "wandb sync" in told[0]
    for run_id in ids:
        assert events(tmp_path / "demo" / run_id) == ["tracker wandb went offline"]
        assert history(tmp_path / "demo" / run_id) == [{"loss": 1, "train/step": 1}]


def test_without_an_account_the_run_is_logged_offline_and_nobody_is_asked(client, begin, told, tmp_path):
    tracker = begin({"mode": "online"})
    tracker.finish("completed")
    assert len(told) == 1 and "wandb login" in told[0]
    assert events(tmp_path / "demo/lora-r8-s0-1a2b") == ["tracker wandb went offline"]
