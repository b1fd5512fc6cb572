"""Real runs under W&B in trouble: they complete, their own files are whole, and a sync repairs W&B.

Each run is a process of its own: it can be killed, and its end shows that W&B's client lets go of it.
"""

import contextlib
import json
import shutil
import signal
import subprocess
from types import SimpleNamespace

import pytest

from experiments import record
from experiments.console.commands import run as command_line
from experiments.spec import from_record
from experiments.tracking import _log
from experiments.tracking._rows import local_rows

pytestmark = pytest.mark.slow

STEPS = 20

RUN = """
import json, os, resource, signal, sys, urllib.request
from pathlib import Path
import wandb
from experiments.training import execute as execution
from experiments import tracking
from experiments.training.run_state import Run
from experiments.record import RunFolder
from experiments.spec import from_record

class Display:
    '''Makes the trouble once step `at` is in the history.'''

    def __init__(self, folder, trouble, at):
        self.folder, self.trouble, self.at = folder, trouble, at

    def run_started(self, run_id, steps, done=0):
        resource.setrlimit(resource.RLIMIT_FSIZE, 2 * [resource.RLIM_INFINITY])

    def step(self, run_id, step, loss=None):
        if step >= self.at:
            trouble, self.trouble = self.trouble, None
            if trouble == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if trouble == "outage":
                urllib.request.urlopen(os.environ["WANDB_BASE_URL"] + "/fail", data=b"")
            if trouble == "full disk":
                self.fill()

    def fill(self):
        with open(self.folder.parent / "filler", "wb", buffering=0) as file:
            try:
                while file.write(b"0" * 4096):
                    pass
            except OSError:
                pass

def run(folder, trouble, at, spec):
    if trouble == "full log":  # of W&B's client, which inherits the limit; our own files get theirs back
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))
    one = Run(from_record(spec), folder.name, RunFolder(folder), tracking.make(spec["tracker"]))
    print(execution.execute([one], display=Display(folder, trouble, at), checkpoint_every=0.0)[0]["status"])

order = json.loads(sys.argv[1])
run(Path(order["folder"]), order["trouble"], order["at"], order["spec"])
"""


@pytest.fixture
def study(tmp_path):
    """Where the runs are."""
    return tmp_path / "runs" / "toy"


@pytest.fixture
def spec(toy_spec):
    """A run on a small table: `spec({"mode": "offline"})`."""
    train = {"steps": STEPS, "log_every": 1, "evaluations": 2, "threads": 1}
    tracker = {"name": "wandb", "timeout": 5.0}
    return lambda options=(): toy_spec(options={"dropout": 0.0}, train=train, tracker=tracker | dict(options))


@pytest.fixture
def run(study, preloaded):
    """Run it in a process: `run(spec, trouble="kill", at=9)` gives its exit code and what it printed."""

    def process(spec, *, trouble="", at=STEPS // 2):
        order = {
            "folder": str(study / spec.run_id("0")), "trouble": trouble, "at": at, "spec": spec.as_record(),
        }  # fmt: skip
        code, shown = preloaded(RUN, json.dumps(order), seconds=200)  # where W&B's client would not let go
        return SimpleNamespace(code=code, shown=shown)

    return process


@pytest.fixture
def sync(capsys):
    """The command on a study; its exit code and what it printed."""

    def call(study, *words):
        code = command_line("experiments.sweep", "", ["sync", str(study), "--timeout", "5", *words])
        return code, capsys.readouterr().out

    return call


def assert_completed(process):
    assert process.code == 0 and process.shown.split()[-1] == "completed", process.shown


def assert_complete(folder):
    """The run completed and its own files are what their checksums say, each step once."""
    assert record.verify(folder) == [] and record.read(folder)["status"] == "completed"
    steps = [row["step"] for row in record.read_history(folder / "history.jsonl") if "loss" in row]
    assert steps == list(range(1, STEPS + 1))


def assert_same(rows, folder):
    """W&B's rows are the history's: none is missing, none is there twice, each with its values."""
    in_order = lambda rows: sorted(rows, key=lambda row: (row["train/step"], sorted(row)))  # noqa: E731
    assert in_order(rows) == in_order(local_rows(record.RunFolder(folder)))


def only(study):
    """The folder of the one run."""
    (folder,) = record.run_folders(study)
    return folder.path


def test_an_unreachable_server(client, wandb_server, spec, run, sync, study, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "local-" + "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    done = run(spec())
    assert_completed(done)
    assert_complete(only(study))
    assert_same(_log.rows(only(study)), only(study))
    monkeypatch.setenv("WANDB_BASE_URL", wandb_server.url)
    assert sync(study)[0] == 0
    assert_same(wandb_server.runs[only(study).name].rows, only(study))
    assert "1 in step" in sync(study)[1]


def test_a_server_that_goes_away_in_mid_run_and_stays_away(online, spec, run, sync, study):
    done = run(spec(), trouble="outage")
    assert_completed(done)
    assert_complete(only(study))
    assert online.refused and len(online.runs[only(study).name].lines) < STEPS
    online.failing = False
    assert sync(study)[0] == 0
    stored = online.runs[only(study).name]
    assert_same(stored.rows, only(study))
    assert stored.state == "finished"
    assert "1 in step" in sync(study)[1]


def test_kill_9_and_the_same_command_again(online, spec, run, sync, study):
    assert run(spec(), trouble="kill").code == -signal.SIGKILL
    assert_completed(run(spec()))
    assert_complete(only(study))
    assert_same(online.runs[only(study).name].rows, only(study))
    assert "1 in step" in sync(study)[1]


def test_kill_9_and_a_sync_before_the_run_goes_on(online, spec, run, sync, study):
    assert run(spec(), trouble="kill").code == -signal.SIGKILL
    assert sync(study)[0] == 0
    stored = online.runs[only(study).name]
    assert_same(stored.rows, only(study))
    assert stored.state == "failed" and stored.summary["status"] == "preempted"
    assert_completed(run(spec()))
    assert_complete(only(study))
    assert_same(stored.rows, only(study))
    assert stored.state == "finished" and "1 in step" in sync(study)[1]


def test_kill_9_offline_leaves_logs_that_hold_each_row_once(client, spec, run, sync, study):
    for at in (4, 13):
        assert run(spec({"mode": "offline"}), trouble="kill", at=at).code == -signal.SIGKILL
    assert_completed(run(spec({"mode": "offline"})))
    assert_complete(only(study))
    assert len(_log.logs(only(study))) == 3
    assert_same(_log.rows(only(study)), only(study))
    assert sync(study, "--check", "--offline")[0] == 0


def test_a_log_that_can_grow_no_more(online, spec, run, sync, study):
    done = run(spec({"mode": "offline"}), trouble="full log")
    assert_completed(done)
    assert_complete(only(study))
    code, shown = sync(study, "--check", "--offline")
    assert code == 1 and "missing" in shown
    assert sync(study)[0] == 0
    assert_same(online.runs[only(study).name].rows, only(study))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB, where this system lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system of its own can be mounted by root only")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_disk_that_is_full_and_then_is_not(online, small_disk, study, spec, run, sync, mode):
    study.parent.mkdir()
    study.symlink_to(small_disk)
    failed = run(spec({"mode": mode}), trouble="full disk")
    assert failed.code == 1 and "the disk is full" in failed.shown
    with contextlib.suppress(FileNotFoundError):
        (small_disk / "filler").unlink()
    assert_completed(run(spec({"mode": mode})))
    assert_complete(only(study))
    assert sync(study)[0] == 0
    assert_same(online.runs[only(study).name].rows, only(study))
    assert "1 in step" in sync(study)[1]
    assert from_record(record.read(only(study))["spec"]) == spec({"mode": mode})
