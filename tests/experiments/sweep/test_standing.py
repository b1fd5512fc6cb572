"""A study on one machine, seen and ended from another terminal."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

HOME = Path(__file__).parents[3]


@pytest.fixture
def ask(shell):
    """`python -m experiments.sweep WORDS` in the study's folder: exit code and output."""

    def run(*words):
        done = subprocess.run(
            [sys.executable, "-m", "experiments.sweep", *words], cwd=shell.folder, timeout=120, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(HOME)},
        )  # fmt: skip
        return done.returncode, done.stdout

    return run


@pytest.mark.slow
def test_a_sweep_is_watched_and_cancelled_from_elsewhere(shell, ask):
    words = ("variant=lora", "r=2,3", "workers=1", "train.steps=3000")
    with shell.start(*words) as process:
        deadline = time.monotonic() + 120
        while "running, step" not in (said := ask("status", "runs/toy")[1]):
            assert process.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.2)
        assert f"by process {worker_in(said)} on " in said
        assert "unfinished, begins when the command is given again" in said
        code, output = ask("cancel", "runs/toy")
        assert (code, f"Asked process {process.pid} to stop.") == (0, output.splitlines()[0])
        assert process.wait(60) == 143
    assert shell.records() == {}
    assert list((shell.folder / "runs/toy").glob("*/checkpoint/*"))
    assert ask("cancel", "runs/toy")[1].startswith("Nothing of runs/toy is queued or running")
    code, output = ask("watch", "runs/toy", "--every", "0.1")
    assert code == 1
    assert "2 unfinished" in output


def worker_in(said):
    """The number of the process that a line on a running run names."""
    return int(said.partition("by process ")[2].split()[0])
