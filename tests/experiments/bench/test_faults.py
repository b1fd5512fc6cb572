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


RUNS = ("one", "two")


@pytest.fixture
def bench(tmp_path):
    """A bench of a pack of two runs whose undisturbed files, with one thread and with two, are made up.

    So are those of each run alone: their losses are 10 more.
    """
    made = Bench.__new__(Bench)
    made.root, made.run_ids, made.undisturbed = tmp_path, list(RUNS), {}
    made.specs = specs_of("variant=lora", "r=3", "seed=0,1", "study=toy")
    for threads in (1, 2):
        for members in (RUNS, RUNS[:1], RUNS[1:]):
            folder = end(
                made, f"undisturbed-{threads}-{len(members)}-{members[0]}", threads=threads, members=members
            )
            made.undisturbed[members, threads] = {name: made.lasting(folder, name) for name in members}
    return made


def end(
    bench, name, *, threads=1, members=RUNS, steps=STEPS, loss=0.5, accuracy=0.75, deviations=(),
    status="completed",
):  # fmt: skip
    """Leave what the runs leave; the losses tell the number of threads. Their folder.

    What differs from an undisturbed run, differs in the second.
    """
    for i, (run_id, spec) in enumerate(zip(RUNS, bench.specs, strict=True)):
        run = RunFolder(bench.path(bench.root / name, run_id))
        run.path.mkdir(parents=True)
        run.predictions.write_bytes(b"predictions")
        base = (loss if i else 0.5) + threads + (0 if len(members) > 1 else 10)
        rows = [json.dumps({"step": n + 1, "loss": base}) + "\n" for n in range(steps if i else STEPS)]
        pack = {"pack": {"runs": list(members)}} if len(members) > 1 else {}
        conclude(
            run, spec.as_record(), history="".join(rows), metrics={"test/accuracy": accuracy}, cost={},
            env={"threads": threads}, deviations=list(deviations),
            status=status if i else "completed", **pack,
        )  # fmt: skip
    return bench.root / name


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("members", [RUNS, RUNS[:1]])
def test_what_ends_like_undisturbed_runs_of_its_threads_and_its_pack_is_right(bench, threads, members):
    assert bench.verdict(end(bench, "good", threads=threads, members=members)) is None


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
    path = bench.path(folder, "two") / "history.jsonl"
    path.write_text(path.read_text().replace("1.5", "2.5", 2))
    assert bench.verdict(folder) == "differing"


def test_a_run_that_claims_another_pack_differs(bench):
    folder = end(bench, "claims")
    path = bench.path(folder, "one") / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pack": {"runs": ["one"]}}))
    assert bench.verdict(folder) == "differing"


def test_a_run_with_half_a_row_differs(bench):
    folder = end(bench, "torn")
    path = bench.path(folder, "two") / "history.jsonl"
    path.write_text('{"st' + path.read_text())
    assert bench.verdict(folder) == "differing"


def test_a_run_without_a_record_is_lost(bench):
    assert bench.verdict(bench.root / "nothing") == "lost"


@pytest.mark.slow
def test_a_few_faults_of_each_kind_do_no_harm():
    command = [
        sys.executable,
        "-m",
        "experiments.bench",
        "faults",
        "--count",
        "30",
        "--variants",
        "full,lora+dora",
    ]
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
