"""The bench of faults: it finds what it looks for, and a few of its faults."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.bench.fake import conclude, specs_of
from experiments.bench.faults import STEPS, Bench
from experiments.record import RunFolder

HOME = Path(__file__).parents[3]


@pytest.fixture
def bench(tmp_path):
    """A bench whose undisturbed runs, with one thread and with two, are made up."""
    [spec] = specs_of("variant=lora", "r=3", "study=toy")
    made = Bench.__new__(Bench)
    made.root, made.spec, made.run_id, made.undisturbed = tmp_path, spec, "run", {}
    for threads in (1, 2):
        end(made, f"undisturbed-{threads}", threads=threads)
        made.undisturbed[threads] = made.lasting(tmp_path / f"undisturbed-{threads}")
    return made


def end(bench, name, *, threads=1, steps=STEPS, loss=0.5, accuracy=0.75, deviations=(), status="completed"):
    """Leave what a run leaves; the losses tell the number of threads. Its folder."""
    run = RunFolder(bench.path(bench.root / name))
    run.path.mkdir(parents=True)
    run.predictions.write_bytes(b"predictions")
    rows = [json.dumps({"step": i + 1, "loss": loss + threads}) + "\n" for i in range(steps)]
    conclude(
        run, bench.spec.as_record(), history="".join(rows), metrics={"test/accuracy": accuracy}, cost={},
        env={"threads": threads}, deviations=list(deviations), status=status,
    )  # fmt: skip
    return bench.root / name


def test_what_ends_like_the_undisturbed_run_of_its_threads_is_right(bench):
    assert bench.verdict(end(bench, "one")) is None
    assert bench.verdict(end(bench, "two", threads=2)) is None


@pytest.mark.parametrize(
    ("how", "verdict"),
    [
        ({"loss": 0.5000000000000002}, "differing"),
        ({"accuracy": 0.76}, "differing"),
        ({"deviations": ["went on with fewer rows"]}, "differing"),
        ({"steps": STEPS + 1}, "doubled"),
        ({"steps": STEPS - 1}, "doubled"),
        ({"status": "failed"}, "lost"),
    ],
)
def test_what_does_not_is_named(bench, how, verdict):
    assert bench.verdict(end(bench, "bad", **how)) == verdict


def test_a_run_of_which_some_rows_are_of_other_threads_differs(bench):
    folder = end(bench, "mixed")
    path = bench.path(folder) / "history.jsonl"
    path.write_text(path.read_text().replace("1.5", "2.5", 2))
    assert bench.verdict(folder) == "differing"


def test_a_run_without_a_record_is_lost(bench):
    assert bench.verdict(bench.root / "nothing") == "lost"


@pytest.mark.slow
def test_a_few_faults_of_each_kind_do_no_harm():
    command = [sys.executable, "-m", "experiments.bench", "faults", "--count", "16", "--variants", "full"]
    done = subprocess.run(
        command,
        cwd=HOME,
        env={**os.environ, "PYTHONPATH": str(HOME)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 and 2 threads differ" in done.stdout, "else the count of threads would be no matter"
    assert "0 lost, 0 doubled, 0 differing" in done.stdout.splitlines()[-1]
