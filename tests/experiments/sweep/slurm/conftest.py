"""A real Slurm to submit to, and a false one: programs of its names that write down what they are told."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from experiments.config.settings import Terms
from experiments.sweep.slurm.settings import Settings
from experiments.sweep.slurm.submit import Submitter

HOME = Path(__file__).parents[4]
STATE = Path(os.environ.get("ABLORA_SLURM", "/var/tmp/ablora-slurm"))  # as .ci/slurm-up has it
SMALL = (
    "hydra/launcher=slurm", "hydra.launcher.cpus=1", "hydra.launcher.mem_gb=0.5",
    "hydra.launcher.check=false", "hydra.launcher.resources.report.mem_gb=0.5",
    "hydra.launcher.resources.variant.full.mem_gb=1",
)  # fmt: skip


class Cluster:
    """The Slurm that .ci/slurm-up starts."""

    def __init__(self, environment):
        self.environment = environment

    def submit(self, shell, *words):
        """Give a command to the launcher; its output once it has returned."""
        code, output = shell.run(*SMALL, *words, **self.environment)
        assert code == 0, output
        return output

    def ask(self, *command):
        """What one of Slurm's programs says."""
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **self.environment}, check=True
        )
        return done.stdout

    def sweep(self, shell, *words):
        """`python -m experiments.sweep WORDS`: exit code and output."""
        done = subprocess.run(
            [sys.executable, "-m", "experiments.sweep", *words], cwd=shell.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
            env={**os.environ, **self.environment, "PYTHONPATH": str(HOME)},
        )  # fmt: skip
        return done.returncode, done.stdout

    @staticmethod
    def until(condition, otherwise, seconds=240):
        """Wait for a condition; `otherwise` says what has not happened."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, otherwise
            time.sleep(0.1)

    def started(self, shell, study, count):
        """Wait until `count` runs have taken some steps."""
        folder = shell.folder / "runs" / study
        self.until(
            lambda: sum(file.stat().st_size > 0 for file in folder.glob("*/history.jsonl")) >= count,
            f"{count} runs have not started",
            400,
        )

    def running(self, shell, study, count):
        """The elements of `count` runs that have taken some steps, by run_id, from what their claims say."""
        self.started(shell, study, count)
        code, output = self.sweep(shell, "status", f"runs/{study}")
        lines = [line.split() for line in output.splitlines() if "running, step" in line]
        assert code == 0 and len(lines) >= count, f"{count} runs were not under way together: {output}"
        return {line[0]: line[-1] for line in lines}

    def task(self, element):
        """The process that an element's step runs."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_text().split("\0")
                known = dict(
                    v.split("=", 1) for v in (process / "environ").read_text().split("\0") if "=" in v
                )
            except OSError:
                continue
            name = f"{known.get('SLURM_ARRAY_JOB_ID')}_{known.get('SLURM_ARRAY_TASK_ID')}"
            if name == element and words[0].endswith("python") and "experiments.sweep.slurm.task" in words:
                return int(process.name)
        raise AssertionError(f"{element} has no process")

    def wait(self, seconds=600):
        """Until the queue is empty."""
        self.until(lambda: not self.ask("squeue", "--noheader"), "jobs are in the queue still", seconds)


@pytest.fixture
def cluster():
    """The test Slurm, empty, for one test at a time."""
    if not (STATE / "slurm.conf").is_file():
        pytest.skip("no Slurm for tests is running: .ci/slurm-up starts one (as root, on Debian or Ubuntu)")
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cluster = Cluster({"SLURM_CONF": str(STATE / "slurm.conf")})
        yield cluster
        if cluster.ask("squeue", "--noheader"):
            cluster.ask("scancel", f"--user={os.environ.get('USER', 'root')}")
            cluster.wait(60)


@pytest.fixture
def stop():
    """Processes are stopped by `stop(pid)`, and go on afterwards whatever happens."""
    stopped = []

    def at(process):
        os.kill(process, signal.SIGSTOP)
        stopped.append(process)

    yield at
    for process in stopped:
        if Path(f"/proc/{process}").exists():
            os.kill(process, signal.SIGCONT)


class Fake:
    """A Slurm made of small programs. `told` is what they were asked, `queue` what squeue shows."""

    def __init__(self, folder):
        self.folder = folder
        self.bin = folder / "slurm-bin"
        self.bin.mkdir()
        self.write("sbatch", 'echo $((100 + $(wc -l < "$log")))')
        self.write("squeue", f'cat "{folder}/queue"')
        self.write("scontrol", 'echo "MaxArraySize            = 1001"')
        self.write("scancel", f': > "{folder}/queue"')
        self.queue()

    def write(self, name, script):
        """A program that notes its words and then does something."""
        path = self.bin / name
        path.write_text(f'#!/bin/sh\nlog="{self.folder}/{name}.log"\necho "$*" >> "$log"\n{script}\n')
        path.chmod(0o755)

    def queue(self, *lines):
        """Have squeue show these: job|index|state|reason."""
        (self.folder / "queue").write_text("".join(f"{line}\n" for line in lines))

    def told(self, name):
        """The words that a program was given, a line per call."""
        path = self.folder / f"{name}.log"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A false Slurm, before all else on the PATH."""
    made = Fake(tmp_path)
    monkeypatch.setenv("PATH", f"{made.bin}{os.pathsep}{os.environ['PATH']}")
    return made


@pytest.fixture
def submitter(tmp_path, monkeypatch):
    """Submits from an empty folder, with these keys of the launcher changed: `submitter(cpus=2)`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.data.fingerprint", lambda spec: spec.dataset)
    defaults = yaml.safe_load((HOME / "conf/hydra/launcher/slurm.yaml").read_text())

    def make(**keys):
        return Submitter(Settings({**defaults, **vars(Terms()), "workers": "auto", "check": False, **keys}))

    return make
