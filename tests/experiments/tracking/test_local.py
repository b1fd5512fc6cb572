"""Trackio and TensorBoard, by their own packages: what they hold after runs, resumes, kills and faults."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from experiments import data, record, tracking
from experiments.errors import UserError
from experiments.spec import RunSpec, Train
from experiments.sweep.plan import plan
from experiments.tracking._base import Background, Tracker

ROOT = Path(record.__file__).resolve().parents[1]
SPEC = {
    "study": "demo", "variant": "lora", "r": 8, "targets": ["q", "v"], "train": {"steps": 3, "warmup": None},
}  # fmt: skip
RUN = "lora-r8-s0-1a2b"
LABELS = tracking.Labels("lora-r8", "lora-r8-s0")


class TrackioStore:
    """What Trackio has, in its own words."""

    name = "trackio"

    def __init__(self, monkeypatch, home):
        pytest.importorskip("trackio", reason="pip install 'ablora[trackio]'")
        from trackio import sqlite_storage

        monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", home)
        monkeypatch.setenv("TRACKIO_DIR", str(home))  # of other processes
        self.storage = sqlite_storage.SQLiteStorage

    def rows(self, folder, run_id=RUN):
        """(step, column, value) of all that was logged."""
        rows = self.storage.get_logs("demo", run_id=run_id)
        return sorted(
            (row["step"], key, value)
            for row in rows
            for key, value in row.items()
            if key not in ("step", "timestamp")
        )

    def config(self):
        return self.storage.get_run_config("demo", run_id=RUN)


class TensorBoardStore:
    """What the event files hold, read by their format: length, its checksum, an event, its checksum."""

    name = "tensorboard"

    def __init__(self, monkeypatch, home):
        pytest.importorskip("tensorboardX", reason="pip install 'ablora[tensorboard]'")

    def events(self, folder):
        from tensorboardX.proto.event_pb2 import Event

        for path in sorted((folder / "tensorboard").iterdir()):
            content = path.read_bytes()
            while content:
                size = int.from_bytes(content[:8], "little")
                yield Event.FromString(content[12 : 12 + size])
                content = content[16 + size :]

    def rows(self, folder, run_id=RUN):
        values = ((event.step, value) for event in self.events(folder) for value in event.summary.value)
        return sorted(
            (step, value.tag, pytest.approx(value.simple_value, rel=1e-6))
            for step, value in values
            if value.HasField("simple_value")
        )


@pytest.fixture(params=[TrackioStore, TensorBoardStore], ids=["trackio", "tensorboard"])
def store(request, monkeypatch, tmp_path):
    """What a tracker has kept."""
    return request.param(monkeypatch, tmp_path / "home")


@pytest.fixture
def folder(tmp_path):
    """The run's folder."""
    return tmp_path / "demo" / RUN


@pytest.fixture
def begin(store, folder, notes):
    """Start a run, as often as asked."""

    def start(run_id=RUN):
        tracker = tracking.make({"name": store.name}, notify=notes.append)
        tracker.start(run_id, SPEC, labels=LABELS, folder=folder.with_name(run_id))
        return tracker

    return start


def add(tracker, folder, steps):
    """As a run does: the history first."""
    with record.History(folder / "history.jsonl") as history:
        for step in steps:
            row = {"step": step, "loss": 1 / step, "text": "no number"}
            history.append(row)
            tracker.log(row, step)


def losses(*steps):
    return [(step, "loss", 1 / step) for step in steps]


def only(rows, *columns):
    return [row for row in rows if row[1] in columns]


def test_a_run_is_shown_with_its_end(begin, store, folder, notes, events):
    tracker = begin()
    add(tracker, folder, range(1, 8))
    tracker.summary({"test/accuracy": 0.5, "wall_s": 3})
    tracker.finish("completed")
    rows = store.rows(folder)
    assert only(rows, "loss") == losses(*range(1, 8))
    assert only(rows, "test/accuracy", "wall_s") == [(7, "test/accuracy", 0.5), (7, "wall_s", 3)]
    assert notes == [] and events(folder) == []


@pytest.mark.parametrize("ending", ["preempted", None], ids=["stopped", "killed"])
def test_a_resume_goes_on_in_the_same_run_and_doubles_no_step(begin, store, folder, notes, ending):
    """From a checkpoint after step 4: steps 5 and 6 are cut from the history and done again."""
    tracker = begin()
    add(tracker, folder, range(1, 5))
    size = (folder / "history.jsonl").stat().st_size
    add(tracker, folder, (5, 6))
    if ending:
        tracker.finish(ending)
    tracker = begin()
    record.History(folder / "history.jsonl").cut(size)
    add(tracker, folder, (5, 6, 7))
    tracker.summary({"test/accuracy": 0.5})
    tracker.finish("completed")
    rows = store.rows(folder)
    assert only(rows, "loss") == losses(*range(1, 8)) and notes == []
    assert only(rows, "test/accuracy") == [(7, "test/accuracy", 0.5)]


def test_another_attempt_in_the_same_process_doubles_no_step(begin, store, folder):
    """As after memory ran out: the same tracker is started again."""
    tracker = begin()
    add(tracker, folder, (1, 2))
    tracker.start(RUN, SPEC, labels=LABELS, folder=folder)
    record.History(folder / "history.jsonl").cut(0)
    add(tracker, folder, (1, 2, 3))
    tracker.finish("completed")
    assert only(store.rows(folder), "loss") == losses(1, 2, 3)


def test_the_runs_of_a_pack_are_shown_side_by_side(begin, store, folder):
    ids = [f"lora-r8-s{seed}-1a2b" for seed in range(3)]
    running = {run_id: begin(run_id) for run_id in ids}
    for step in (1, 2):
        for seed, (run_id, tracker) in enumerate(running.items()):
            add(tracker, folder.with_name(run_id), [step + seed])
    for tracker in running.values():
        tracker.finish("completed")
    for seed, run_id in enumerate(ids):
        assert only(store.rows(folder.with_name(run_id), run_id), "loss") == losses(1 + seed, 2 + seed)


def test_what_a_kill_left_out_is_there_after_the_resume(begin, store, folder):
    script = (
        "import os, pathlib, signal, sys\nfrom experiments import record, tracking\n"
        f"folder = pathlib.Path({str(folder)!r})\ntracker = tracking.make({{'name': {store.name!r}}})\n"
        f"tracker.start({RUN!r}, {SPEC!r}, labels=tracking.Labels('lora-r8', 'lora-r8-s0'), folder=folder)\n"
        "with record.History(folder / 'history.jsonl') as history:\n"
        "    for step in range(1, 51):\n"
        "        history.append({'step': step, 'loss': 1 / step})\n"
        "        tracker.log({'step': step, 'loss': 1 / step}, step)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    tracker = begin()
    add(tracker, folder, [51])
    tracker.finish("completed")
    assert only(store.rows(folder), "loss") == losses(*range(1, 52))


def test_a_place_that_takes_nothing_ends_the_tracking_and_not_the_run(
    begin, store, folder, notes, events, tmp_path
):
    (tmp_path / "home").write_text("a file where a folder should be")
    folder.mkdir(parents=True)
    (folder / "tensorboard").write_text("likewise")
    tracker = begin()
    add(tracker, folder, range(1, 4))
    tracker.finish("completed")
    assert len(notes) == 1 and f"tracker {store.name} stopped" in notes[0]
    assert events(folder) == [f"tracker {store.name} stopped"]
    assert len(record.read_history(folder / "history.jsonl")) == 3


def test_a_missing_package_does_not_fail_a_run_under_way(begin, store, folder, notes, monkeypatch):
    package = tracking._module(store.name).PACKAGE
    monkeypatch.setitem(sys.modules, package, None)
    tracker = begin()
    add(tracker, folder, range(1, 4))
    tracker.finish("completed")
    assert len(notes) == 1 and "The run goes on" in notes[0] and package in notes[0]


def test_trackio_has_the_group_and_the_status(monkeypatch, tmp_path, folder, notes):
    store = TrackioStore(monkeypatch, tmp_path / "home")
    tracker = tracking.make({"name": "trackio", "project": "demo"}, notify=notes.append)
    tracker.start(RUN, {**SPEC, "study": "another"}, labels=LABELS, folder=folder)
    add(tracker, folder, [1])
    tracker.finish("failed")
    config = store.config()
    assert config["_Group"] == "lora-r8" and config["status"] == "failed" and config["train"]["steps"] == 3
    (run,) = store.storage.get_run_records("demo")
    assert (run["id"], run["name"]) == (RUN, "lora-r8-s0")


def test_tensorboard_has_the_hyperparameters_and_one_restart(monkeypatch, tmp_path, folder, notes):
    store = TensorBoardStore(monkeypatch, tmp_path)
    for status in ("preempted", "completed"):
        tracker = tracking.make({"name": "tensorboard"}, notify=notes.append)
        tracker.start(RUN, SPEC, labels=LABELS, folder=folder)
        add(tracker, folder, [1] if status == "preempted" else [2])
        tracker.summary({"test/accuracy": 0.5})
        tracker.finish(status)
    found = list(store.events(folder))
    assert [event.step for event in found if event.HasField("session_log")] == [0]
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    plugins = [value.metadata.plugin_data for event in found for value in event.summary.value]
    contents = [HParamsPluginData.FromString(p.content) for p in plugins if p.plugin_name == "hparams"]
    (start,) = [c.session_start_info for c in contents if c.HasField("session_start_info")]
    assert start.hparams["train.steps"].number_value == 3 and start.hparams["cell"].string_value == "lora-r8"
    assert start.hparams["targets"].string_value == '["q", "v"]'


# --- before the start


@pytest.mark.parametrize("name", ["trackio", "tensorboard"])
def test_a_missing_package_is_told_before_the_start(tmp_path, monkeypatch, name):
    spec = RunSpec(
        study="demo", variant="probe", method="probe", r=None, alpha=None, targets=None, axes={}, options={},
        model="tiny", model_options={}, dataset="toy", dataset_options={}, lr=0.1, seed=3, train=Train(),
        tracker={"name": name},
    )  # fmt: skip
    monkeypatch.setattr(data, "fingerprint", lambda spec: "0" * 64)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=rf"tracker={name} needs the package .*pip install 'ablora\[{name}\]'"
    ):
        plan([spec], fingerprints=data.fingerprint, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- in a thread of its own


def test_a_tracker_that_hangs_does_not_hold_the_run(tmp_path):
    go_on, begun = threading.Event(), threading.Event()

    class Hanging(Tracker):
        def log(self, row, step):
            begun.set()
            go_on.wait()

    tracker = Background(Hanging(), patience=0.0)
    tracker.start("id", SPEC, labels=LABELS, folder=tmp_path)
    for step in range(1000):
        tracker.log({}, step)
    begun.wait()
    with pytest.raises(UserError, match="did not take everything within 0 s"):
        tracker.finish("completed")
    go_on.set()


def test_an_exception_is_raised_by_a_later_call_and_nothing_more_is_called(tmp_path):
    calls = []

    class Failing(Tracker):
        def log(self, row, step):
            calls.append(step)
            raise OSError("no space")

    tracker = Background(Failing())
    tracker.start("id", SPEC, labels=LABELS, folder=tmp_path)
    tracker.log({}, 1)
    with pytest.raises(OSError, match="no space"):
        tracker.finish("completed")
    assert calls == [1]


def test_a_run_that_never_began_has_nothing_to_finish():
    Background(Tracker()).finish("preempted")
