"""Sweeps as a user starts them: what they leave, what they skip, how they fail and how they stop."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from experiments.record import planned

SWEEP = ("variant=lora,dora", "r=2", "seed=0,3", "workers=2")
STOPPED = ("variant=adalora", "r=2", "train.steps=300", "variant.dropout=0.1")


@pytest.fixture(scope="module")
def swept(module_shell):
    """A sweep of two variants and two seeds in two processes: (its folder, its records by run_id)."""
    code, output = module_shell.run(*SWEEP, "study=swept")
    assert code == 0, output
    assert "report.html" in output
    return module_shell.folder / "runs/swept", module_shell.records("swept")


@pytest.fixture
def again(swept, shell):
    """That sweep in a folder of its own, where it may be changed: `again()` gives its command once more."""
    shutil.copytree(swept[0], shell.folder / "runs/swept")
    return lambda: shell.run(*SWEEP, "study=swept")


@pytest.fixture(scope="module")
def undisturbed(module_shell):
    """The folder and the record of the run that others stop."""
    code, output = module_shell.run(*STOPPED, "study=whole")
    assert code == 0, output
    [(name, record)] = module_shell.records("whole").items()
    return module_shell.folder / "runs/whole" / name, record


def test_a_sweep_leaves_records_and_a_report_and_the_same_command_skips_what_is_done(swept, shell, again):
    study, records = swept
    assert sorted(r["spec"]["variant"] for r in records.values()) == ["dora", "dora", "lora", "lora"]
    assert {r["status"] for r in records.values()} == {"completed"}
    assert (study / "report/report.html").exists()
    assert planned(study).keys() == records.keys()
    before = {path: path.stat().st_mtime_ns for path in shell.folder.glob("runs/swept/*/record.json")}
    code, output = again()
    assert code == 0, output
    assert len(before) == 4 and {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(shell.folder.glob("runs/swept/.claims/*"))


def test_a_record_holds_what_the_schema_promises(swept):
    study, records = swept
    asked = {"variant": "dora", "seed": 3}
    [(name, record)] = [item for item in records.items() if asked.items() <= item[1]["spec"].items()]
    assert record["run_id"] == name
    assert (record["schema"], record["phase"], record["study"]) == (1, "run", "swept")
    assert record["spec"]["variant_axes"] == {
        "delta": "dora", "scaling": "alpha_over_r", "storage": "fp32", "grouping": "uniform",
        "controller": "none",
    }  # fmt: skip
    assert record["primary"] == {"metric": "accuracy", "goal": "max"}
    metrics = {f"{split}/{name}" for split in ("validation", "test") for name in ("accuracy", "loss")}
    assert metrics | {"best/validation/accuracy"} <= set(record["metrics"])
    assert record["cost"]["trainable_parameters"] == 4 * (2 * 24 + 24 * 2 + 24) + 24 * 2 + 2
    costs = "train_seconds step_ms tokens_per_second peak_bytes adapter_bytes base_bytes"
    assert set(costs.split()) <= set(record["cost"])
    facts = "train_sha256 validation_sha256 test_sha256 train_rows test_rows"
    assert set(facts.split()) <= set(record["data"])
    assert {"code_sha256", "versions", "device", "host"} <= set(record["env"])
    assert set(record["start"]) == {"step0_adapter_sha256", "first_batch_sha256"}
    assert "predictions.parquet" in record["files"]
    assert len((study / name / "history.jsonl").read_text().splitlines()) == 8 + 3
    assert not (study / name / "checkpoint").exists()


def test_predictions_add_up_to_the_metric(swept):
    study, records = swept
    for name, record in records.items():
        rows = pq.read_table(study / name / "predictions.parquet").to_pylist()
        assert len({row["id"] for row in rows}) == len(rows) == record["data"]["test_rows"]
        assert all(row["score"] == float(row["label"] == row["prediction"]) for row in rows)
        mean = {key: sum(row[key] for row in rows) / len(rows) for key in ("score", "loss")}
        assert mean["score"] == pytest.approx(record["metrics"]["test/accuracy"])
        assert mean["loss"] == pytest.approx(record["metrics"]["test/loss"], rel=1e-5)


def test_seeds_share_their_data_order_across_variants_and_differ_among_themselves(swept):
    start = {(r["spec"]["variant"], r["spec"]["seed"]): r["start"] for r in swept[1].values()}
    batch = {cell: facts["first_batch_sha256"] for cell, facts in start.items()}
    assert batch["lora", 0] == batch["dora", 0] != batch["lora", 3] == batch["dora", 3]
    assert start["lora", 0]["step0_adapter_sha256"] != start["lora", 3]["step0_adapter_sha256"]


def test_one_worker_or_two_give_the_same_numbers(swept, module_shell):
    module_shell.run(*SWEEP[:-1], "workers=1", "study=one")
    one, two = module_shell.records("one"), swept[1]
    assert len(one) == 4
    assert {name: r["metrics"] for name, r in one.items()} == {name: r["metrics"] for name, r in two.items()}


def test_a_rank_too_large_for_the_model_is_refused_before_anything_runs(shell):
    code, output = shell.run("variant=lora", "r=2,25")
    assert code == 2
    assert "25" in output
    assert "24" in output
    assert shell.records() == {}
    assert not (shell.folder / "runs/toy").exists(), "what was refused is no study"


def test_targets_that_match_nothing_are_refused_with_what_they_could_have_meant(shell):
    code, output = shell.run("variant=lora", "targets=[qwery]", "r=2")
    assert code == 2, output
    assert "query" in output
    assert "Traceback" not in output


def test_one_run_that_diverges_is_a_result_and_the_rest_go_on(shell):
    code, output = shell.run("variant=lora", "r=2", "lr=0.01,1e30", "train.clip=0", "train.warmup=0")
    assert code == 0, output
    status = {r["spec"]["lr"]: r["status"] for r in shell.records().values()}
    assert status == {0.01: "completed", 1e30: "diverged"}
    diverged = next(r for r in shell.records().values() if r["status"] == "diverged")
    assert "test/accuracy" not in diverged["metrics"]
    assert "not finite at step" in diverged["error"]["message"]


def test_a_worker_that_is_killed_costs_its_run_alone(shell):
    process = shell.start("variant=lora", "r=2,3", "seed=0,1", "workers=1", "train.steps=150")
    victims = wait_for_history(shell, process)
    os.kill(worker_of(process), signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    records = shell.records()
    assert process.returncode == 1, output
    assert records[victims[0]]["status"] == "failed"
    assert "SIGKILL" in records[victims[0]]["error"]["message"]
    assert sorted(r["status"] for r in records.values()) == ["completed"] * 3 + ["failed"]
    code, _ = shell.run("variant=lora", "r=2,3", "seed=0,1", "workers=1", "train.steps=150")
    assert code == 0
    assert {r["status"] for r in shell.records().values()} == {"completed"}


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param({signal.SIGINT: 130}, id="once"),
        pytest.param(
            {signal.SIGTERM: 143, signal.SIGUSR1: 138, signal.SIGUSR2: 140},
            marks=pytest.mark.slow,
            id="three times",
        ),
    ],
)
def test_stopped_and_given_again_a_sweep_ends_with_the_same_bits(shell, undisturbed, signals):
    whole, record = undisturbed
    size = 0
    for number, code in signals.items():
        process = shell.start(*STOPPED)
        [name] = wait_for_history(shell, process, size + 1000)
        process.send_signal(number)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == code, output
        assert "same command" in output
        assert shell.records() == {}
        assert list((shell.folder / "runs/toy" / name / "checkpoint").iterdir())
        size = (shell.folder / "runs/toy" / name / "history.jsonl").stat().st_size
    assert shell.run(*STOPPED)[0] == 0
    for file in ("history.jsonl", "predictions.parquet", "adapter/adapter_model.safetensors"):
        assert (shell.folder / "runs/toy" / name / file).read_bytes() == (whole / file).read_bytes(), file
    assert shell.records()[name]["metrics"] == record["metrics"]


def test_a_study_tells_how_it_stands_and_a_run_can_be_repeated_alone(shell):
    shell.run("variant=lora", "r=2", "lr=1e30", "train.clip=0", "train.warmup=0")
    [name] = shell.records()
    ask = lambda *words: subprocess.run(  # noqa: E731
        [sys.executable, "-m", "experiments.sweep", *words], cwd=shell.folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert "diverged, loss or gradient was not finite" in ask("status", "runs/toy").stdout
    again = ask("retry", "runs/toy", name)
    assert again.returncode == 0, again.stderr
    assert shell.records()[name]["status"] == "diverged"
    assert (shell.folder / "runs/toy" / name / "record.1.json").exists()
    unknown = ask("retry", "runs/toy", name[:-1] + "x")
    assert unknown.returncode == 2
    assert name in unknown.stderr


def wait_for_history(shell, process, size=1000):
    """The names of the first runs whose histories are larger than so many bytes."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        histories = shell.folder.glob("runs/toy/*/history.jsonl")
        if found := [path.parent.name for path in histories if path.stat().st_size > size]:
            return found
        time.sleep(0.05)
    raise AssertionError(f"no run has begun: {process.communicate(timeout=60)[0]}")


def worker_of(process):
    """The worker process of a command that has one."""
    children = os.popen(f"pgrep -P {process.pid} -f experiments.sweep.worker").read().split()
    return int(children[0])


@pytest.mark.slow
def test_a_run_over_its_time_limit_fails_alone_and_with_more_time_goes_on(shell):
    words = ("variant=lora", "r=2", "workers=1", "checkpoint_seconds=0")
    code, output = shell.run(*words, "train.steps=50000", "time_limit=0.5")
    assert code == 1, output
    [(name, record)] = shell.records().items()
    assert (record["status"], record["error"]["kind"]) == ("failed", "timeout")
    assert "time_limit=0.5" in record["error"]["message"]
    assert record["error"]["repeat"] == f"python -m experiments.sweep retry runs/toy {name}"
    assert name in (shell.folder / "runs/toy/report/report.html").read_text()
    reached = len((shell.folder / "runs/toy" / name / "history.jsonl").read_text().splitlines())
    shell.run(*words, "train.steps=50000", "time_limit=0.5")
    log = (shell.folder / "runs/toy" / name / "log.txt").read_text().splitlines()
    assert int(log[-1].split(" step ")[1].split()[0]) >= reached - 10, "the second time begins where it stood"


@pytest.mark.slow
def test_a_damaged_run_is_put_aside_and_done_again_by_the_same_command(shell, again):
    study = shell.folder / "runs/swept"
    names = sorted(shell.records("swept"))
    adapter = study / names[0] / "adapter/adapter_model.safetensors"
    content = adapter.read_bytes()
    os.truncate(adapter, len(content) // 2)
    before = (study / names[1] / "record.json").stat().st_mtime_ns
    code, output = again()
    assert code == 0, output
    assert f"{names[0]} is damaged" in " ".join(output.split())
    assert adapter.read_bytes() == content
    assert (study / names[1] / "record.json").stat().st_mtime_ns == before
    kept = study / ".quarantine" / f"{names[0]}.1"
    assert (kept / "adapter/adapter_model.safetensors").stat().st_size == len(content) // 2
    assert "adapter_model.safetensors differs" in (kept / "reason.txt").read_text()
