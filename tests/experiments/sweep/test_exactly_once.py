"""Exactly once: many processes on one study, of several hosts, killed and suspended at random, to the end.

Hosts are pretended by a `sitecustomize` that the processes find first; it also shortens the time after which
a silent holder of another host is replaced.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from experiments.record import read_history, verify

HOME = Path(__file__).parents[3]
PRETEND = """
import os, socket
if "PRETEND_HOST" in os.environ:
    socket.gethostname = lambda: os.environ["PRETEND_HOST"]
    from experiments.sweep import lease
    lease.claim.__kwdefaults__.update(stale_seconds=float(os.environ["PRETEND_STALE"]), beat_seconds=0.1)
"""

# What a worker does, with a training that only takes time. The files and their guards are the real ones.
STAND_IN = """
import json, os, random, sys, time
from pathlib import Path

from experiments import record
from experiments.files import Taken
from experiments.sweep.worker import Events, Worker

TICKS = 12


class StandIn(Worker):
    def execute(self, order, folder, held):
        folder.write_spec(order["run"])
        folder.drop_failure()
        history = record.History(folder.history)
        done = len(record.read_history(folder.history))
        for tick in range(done, TICKS):
            time.sleep(0.01)
            if not held.valid():
                return None
            history.append({"step": tick + 1})
        history.close()
        ended = {"run_id": order["run_id"], "study": "toy", "status": "completed", "spec": order["run"]}
        try:
            folder.write_record(ended, first=True)
        except Taken:
            return None
        with open(folder.log, "a") as log:
            log.write("ended\\n")
        return ended


root, seed, cells = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
random.Random(seed).shuffle(cells)
worker = StandIn(Events(open(os.devnull, "w")))
while left := [c for c in cells if record.read(root / "toy" / c) is None]:
    for cell in left:
        run, often = {"run": {"study": "toy"}, "run_id": cell}, {"seconds": 60.0, "steps": None}
        worker.carry_out({"pack": [run], "members": [cell], "root": str(root), "checkpoint": often})
    time.sleep(0.02)
"""


@pytest.fixture
def environment(tmp_path):
    """`environment(host)`: what a process needs to take itself for one of that host."""
    place = tmp_path / "pretend"
    place.mkdir()
    (place / "sitecustomize.py").write_text(PRETEND)

    def made(host, stale):
        path = os.pathsep.join([str(place), str(HOME)])
        return {**os.environ, "PYTHONPATH": path, "PRETEND_HOST": host, "PRETEND_STALE": str(stale)}

    return made


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_with_kills_and_suspensions_every_cell_has_one_record(tmp_path, environment, seed):
    """A suspended holder is thought dead, replaced, and wakes up again: it must not end the run once more."""
    rng = random.Random(seed)
    cells = [f"cell-{i}" for i in range(24)]

    def start(number):
        command = [sys.executable, "-c", STAND_IN, str(tmp_path), str(rng.random()), *cells]
        return subprocess.Popen(command, env=environment(f"host-{number % 2}", 1.0))

    processes = [start(number) for number in range(4)]
    suspended = None
    for _ in range(10):
        time.sleep(rng.uniform(0.2, 0.6))
        victim = rng.randrange(4)
        if suspended is not None:
            suspended.send_signal(signal.SIGCONT)
            suspended = None
        elif rng.random() < 0.5:
            processes[victim].send_signal(signal.SIGSTOP)
            suspended = processes[victim]
            time.sleep(1.5)  # long enough to be replaced
        else:
            processes[victim].kill()
            processes[victim].wait()
            processes[victim] = start(victim)
    if suspended is not None:
        suspended.send_signal(signal.SIGCONT)
    assert [process.wait(timeout=180) for process in processes] == [0] * 4
    study = tmp_path / "toy"
    assert sorted(path.parent.name for path in study.glob("*/record.json")) == sorted(cells)
    for cell in cells:
        assert verify(study / cell) == []
        log = study / cell / "log.txt"
        assert not log.exists() or log.read_text() == "ended\n", "ended twice"
        steps = [row["step"] for row in read_history(study / cell / "history.jsonl")]
        assert steps == list(range(1, 13)), cell
    assert not [path for path in study.rglob("*.tmp") if path.parent.name not in cells]


@pytest.mark.slow
def test_two_commands_on_one_study_with_kills_complete_each_run_once(shell, environment):
    """Real training: engines and workers are killed, the commands given again, until both have ended."""
    rng = random.Random(7)
    words = (
        "variant=lora,adalora", "r=2,3", "seed=0", "workers=1", "train.steps=60", "checkpoint_steps=10",
        "checkpoint_seconds=0",
    )  # fmt: skip

    def start(number):
        return shell.start(*words, **environment(f"host-{number}", 20.0))

    def rows():
        return sum(path.stat().st_size for path in shell.folder.glob("runs/toy/*/history.jsonl"))

    def wait_for_rows():
        deadline, before = time.monotonic() + 240, rows()
        while rows() < before + 1500 and time.monotonic() < deadline:
            time.sleep(0.05)
            if all(process.poll() is not None for process in engines):
                return False
        return True

    engines = [start(0), start(1)]
    kills: Counter[str] = Counter()
    while kills.total() < 4 and wait_for_rows():
        number = rng.randrange(2)
        workers = os.popen(f"pgrep -P {engines[number].pid} -f experiments.sweep.worker").read().split()
        if workers and rng.random() < 0.5:
            os.kill(int(workers[0]), signal.SIGKILL)
            kills["worker"] += 1
        elif engines[number].poll() is None:
            engines[number].kill()
            engines[number].communicate()
            engines[number] = start(number)
            kills["engine"] += 1
    said = [engine.communicate(timeout=400)[0] for engine in engines]
    code, output = shell.run(*words)
    assert code == 0, (output, said)
    assert kills.total() >= 2, "the runs were over before anything was killed"
    records = shell.records()
    assert len(records) == 4
    assert {r["status"] for r in records.values()} == {"completed"}
    for name in records:
        folder = shell.folder / "runs/toy" / name
        assert verify(folder) == []
        assert (folder / "log.txt").read_text().count("ended, completed") <= 1
        history = (folder / "history.jsonl").read_text().splitlines()
        steps = [row["step"] for row in map(json.loads, history) if "loss" in row]
        assert steps == list(range(1, 61))
