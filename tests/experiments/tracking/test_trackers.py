"""Trackers in general: found by name, and never able to fail a run."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import data, record, tracking
from experiments.errors import UserError
from experiments.spec import RunSpec, Train
from experiments.sweep.worker import Events, Worker
from experiments.tracking._base import BestEffort, Labels, Tracker
from experiments.training import execute

ROOT = Path(record.__file__).resolve().parents[1]
SPEC = {"study": "demo", "variant": "lora"}
LABELS = Labels(group="g", name="n")


class Breaking(Tracker):
    """Fails at the call it is told to, and counts them all."""

    def __init__(self, at):
        self.at = at
        self.calls = []

    def __getattribute__(self, name):
        if name in ("start", "log", "summary", "finish"):
            return lambda *_, **__: self.call(name)
        return super().__getattribute__(name)

    def call(self, name):
        self.calls.append(name)
        if name == self.at:
            raise RuntimeError("no\nroute")


@pytest.mark.parametrize("at", ["start", "log", "summary", "finish"])
def test_the_first_exception_ends_the_tracking_and_nothing_else(tmp_path, notes, events, at):
    inner = Breaking(at)
    tracker = BestEffort(inner, name="breaking", notify=notes.append)
    tracker.start("id", SPEC, labels=LABELS, folder=tmp_path)
    tracker.log({}, 1)
    tracker.log({}, 2)
    tracker.summary({})
    tracker.finish("completed")
    assert inner.calls[-1] == at and inner.calls.count(at) == 1
    assert len(notes) == 1 and "RuntimeError: no route" in notes[0]
    assert events(tmp_path) == ["tracker breaking stopped"]


def test_a_folder_that_takes_no_events_is_no_failure_either(tmp_path, notes):
    (tmp_path / "file").write_text("")
    tracker = BestEffort(Breaking("log"), name="breaking", notify=notes.append)
    tracker.start("id", SPEC, labels=LABELS, folder=tmp_path / "file")
    tracker.log({}, 1)
    assert len(notes) == 2 and "events.jsonl was not written" in notes[1]


def test_ctrl_c_is_not_swallowed(tmp_path, notes):
    class Interrupted(Tracker):
        def log(self, row, step):
            raise KeyboardInterrupt

    tracker = BestEffort(Interrupted(), name="interrupted", notify=notes.append)
    with pytest.raises(KeyboardInterrupt):
        tracker.log({}, 1)


def test_no_tracker_imports_no_client(tmp_path):
    code = (
        "import pathlib, sys; from experiments import tracking; t = tracking.make({'name': 'none'})\n"
        "tracking.make({'name': 'wandb', 'mode': 'offline'})  # imported at the start of a run, not here\n"
        "tracking.make({'name': 'trackio'}); tracking.make({'name': 'tensorboard'})\n"
        "t.start('id', {}, labels=tracking.Labels('g', 'n'), folder=pathlib.Path('x')); t.log({}, 1)\n"
        "t.summary({}); t.finish('completed')\n"
        "assert not {'wandb', 'trackio', 'tensorboardX', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "wandbb"}, "Did you mean 'wandb'.*Known: none, tensorboard, trackio, wandb"),
        ({"name": "wandb", "mode": "ofline"}, "Did you mean 'offline'"),
        ({"name": "wandb", "projekt": "x"}, "Did you mean 'project'"),
        ({"name": "trackio", "mode": "x"}, "no option 'mode'. It has: project"),
        ({"name": "tensorboard", "project": "x"}, "no option 'project': it has none"),
    ],
    ids=["name", "mode", "option", "trackio", "tensorboard"],
)
def test_mistakes_are_answered_with_what_is_possible(options, words):
    with pytest.raises(UserError, match=words):
        tracking.make(options)


@pytest.mark.parametrize("phase", ["run", "tune"])
def test_a_run_that_is_stopped_says_so_to_its_tracker(tmp_path, monkeypatch, phase):
    """Else W&B's client would call it finished when the process ends."""
    calls = []

    class Noting(Tracker):
        def start(self, run_id, spec, *, labels, folder):
            calls.append((run_id, labels.phase, labels.group, labels.tags))

        def finish(self, status):
            calls.append(status)

    def begun_and_stopped(runs, **_):
        runs[0].begin()
        raise execute.Interrupted

    spec = RunSpec(
        study="demo", variant="probe", method="probe", r=None, alpha=None, targets=None, axes={}, options={},
        model="tiny", model_options={}, dataset="toy", dataset_options={}, lr=0.1, seed=3, train=Train(),
        phase=phase,
    )  # fmt: skip
    monkeypatch.setattr(data, "fingerprint", lambda spec, as_read: "0" * 64)
    monkeypatch.setattr(tracking, "make", lambda options, notify: Noting())
    monkeypatch.setattr(execute, "execute", begun_and_stopped)
    out = io.StringIO()
    run_id = spec.run_id("0" * 64)
    run, often = {"run": spec.as_record(), "run_id": run_id}, {"seconds": 60.0, "steps": None}
    order = {"pack": [run], "members": [run_id], "root": str(tmp_path), "checkpoint": often}
    Worker(Events(out)).carry_out(order)
    assert calls == [(run_id, phase, "probe-toy", ("demo", "probe", "toy", "tiny")), "preempted"]
    assert '"interrupted"' in out.getvalue()
