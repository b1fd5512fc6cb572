"""A worker alone: what it says and to whom, and what it gives back before it tries again."""

import gc
import io
import json
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

from experiments import data, record
from experiments.bench.fake import specs_of
from experiments.record import RunFolder
from experiments.sweep.lease import acquire
from experiments.sweep.pool import WORKER
from experiments.sweep.worker import STOP_SIGNALS, Events, Worker
from experiments.training import execute as execution

OFTEN = {"seconds": 60.0, "steps": None}


def test_a_run_is_not_ended_by_the_death_of_whoever_listened():
    listening, saying = os.pipe()
    os.close(listening)
    with open(saying, "w", encoding="utf-8", closefd=False) as out:
        events = Events(out)
        for step in (1, 2):
            events.step("run", step, loss=0.5)
        os.dup2(os.open(os.devnull, os.O_WRONLY), saying)  # closing writes what is left
    os.close(saying)


class Model:
    """Something that takes memory."""


@pytest.fixture
def without_collector():
    gc.disable()
    yield
    gc.enable()


def test_what_ran_out_of_memory_is_gone_before_the_next_attempt(tmp_path, monkeypatch, without_collector):
    """The trainer and its callbacks refer to each other, so that no count of references frees the model."""
    attempts = []

    def execute(runs, **how):
        assert not [one for one in attempts if one() is not None], "the model of the first attempt is there"
        model = Model()
        model.itself = model
        attempts.append(weakref.ref(model))
        if len(attempts) == 1:
            raise MemoryError
        return [{"status": "completed"}]

    monkeypatch.setattr(execution, "execute", execute)
    [spec] = specs_of("variant=lora", "r=2")
    order = {"run": spec.as_record(), "run_id": spec.run_id(data.fingerprint(spec)), "checkpoint": OFTEN}
    held = acquire(tmp_path / ".claims", order["run_id"])
    found = Worker(Events(io.StringIO())).execute(order, RunFolder(tmp_path / "run"), held)
    assert found["status"] == "completed" and len(attempts) == 2


@pytest.mark.parametrize(
    ("kills", "status", "rows"), [(1, "completed", 3), (2, "completed", 1), (3, "oom", 1)]
)
def test_a_run_whose_process_the_kernel_killed_is_done_with_fewer_rows_at_a_time(
    tmp_path, monkeypatch, kills, status, rows
):
    """Of 6 rows: 3, then 1, then none; the last word is a record."""
    done = []

    def execute(runs, **how):
        done.append(runs[0].training.train.micro_batch_size)
        return [{"status": "completed", "deviations": runs[0].deviations}]

    monkeypatch.setattr(execution, "execute", execute)
    [spec] = specs_of("variant=lora", "r=2", "train.batch_size=6")
    run_id = spec.run_id(data.fingerprint(spec))
    order = {"run": spec.as_record(), "run_id": run_id, "kills": kills, "checkpoint": OFTEN}
    said = io.StringIO()
    held = acquire(tmp_path / ".claims", run_id)
    found = Worker(Events(said)).execute(order, RunFolder(tmp_path / "run"), held)
    assert found["status"] == status
    assert len(found["deviations"]) == min(kills, 2)
    assert f"went on with {rows}" in found["deviations"][-1] and f"went on with {rows}" in said.getvalue()
    assert done == ([] if status == "oom" else [rows])
    if status == "oom":
        written = record.read(tmp_path / "run")
        assert written["status"] == "oom" and "kernel" in written["error"]["message"]
        assert written["error"]["repeat"].endswith(" run")


def test_signals_that_interrupt_each_others_handling_end_it_all_the_same(tmp_path):
    """Slurm signals a worker together with whoever gives it orders, who then signals it, too."""
    held = acquire(tmp_path / "toy/.claims", "run")
    run = {"run": {"study": "toy"}, "run_id": held.run_id}
    order = {"pack": [run], "members": [held.run_id], "root": str(tmp_path), "checkpoint": OFTEN}
    worker = subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        worker.stdin.write(json.dumps(order) + "\n")
        worker.stdin.flush()
        assert "ready" in worker.stdout.readline()
        assert "busy" in worker.stdout.readline()  # now it waits for the next order
        for _ in range(20_000):
            for number in STOP_SIGNALS:
                os.kill(worker.pid, number)
        worker.stdin.close()
        until = time.monotonic() + 60
        while worker.poll() is None and time.monotonic() < until:  # also while it leaves
            for number in STOP_SIGNALS:
                worker.send_signal(number)
            time.sleep(0.001)
        assert worker.returncode == 0
    finally:
        worker.kill()


START = """
import io, runpy, sys
from experiments import provenance

def hashed(root):
    what = ("torch", "variants", "experiments.spec", "experiments.config")
    late = [name for name in sys.modules if name.startswith(what)]
    print("hashed", late, file=sys.stderr, flush=True)
    return "of the start"

provenance.code_sha256 = hashed
sys.stdin = io.StringIO()
runpy.run_module("experiments.sweep.worker", run_name="__main__")
provenance.code_sha256 = lambda root: "of later"
assert provenance.collect()["code_sha256"] == "of the start"
"""


def test_a_worker_knows_its_code_before_it_imports_what_it_runs():
    home = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", START], cwd=home, capture_output=True, text=True, check=True)
    assert "hashed []" in done.stderr.splitlines()
    assert '"ready"' in done.stdout
