"""On a real Slurm: whatever happens to jobs, each run completes once, with the bits of an undisturbed one."""

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from experiments import provenance
from experiments.sweep.slurm import script

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

LONG = ("variant=adalora", "r=2", "variant.dropout=0.1", "train.steps=3000", "train.threads=1")


@pytest.fixture(scope="module")
def whole(module_shell):
    """The same runs, undisturbed, on this machine: run_id -> folder."""
    code, output = module_shell.run(*LONG, "seed=0,1,2", "workers=2", "study=whole")
    assert code == 0, output
    return {name: module_shell.folder / "runs/whole" / name for name in module_shell.records("whole")}


def check_bits(shell, study, whole, count):
    """All runs of a study completed, and are what they would have been."""
    records = shell.records(study)
    assert len(records) == count
    for name, record in records.items():
        assert record["status"] == "completed", record
        mine = shell.folder / "runs" / study / name
        for file in ("history.jsonl", "predictions.parquet", "adapter/adapter_model.safetensors"):
            assert (mine / file).read_bytes() == (whole[name] / file).read_bytes(), f"{name} {file}"
        assert not list((shell.folder / f"runs/{study}/.claims").glob(f"{name}.*"))
    return {record["spec"]["seed"]: record["env"]["slurm"] for record in records.values()}


def submission(shell, study, number=1):
    """What a submission noted."""
    return json.loads((shell.folder / f"runs/{study}/.slurm/{number}/submission.json").read_text())


def test_a_sweep_is_queued_and_runs_from_a_copy_of_the_code(cluster, shell, tmp_path):
    shell.home = tmp_path / "tree"
    shell.home.mkdir()
    for name in script.PARTS:
        original = provenance.ROOT / name
        (shutil.copytree if original.is_dir() else shutil.copy2)(original, shell.home / name)
    words = ("variant=lora,full", "r=2", "seed=0,1", "hydra.launcher.runs_per_task=2")
    output = cluster.submit(shell, *words)
    assert shell.records() == {}, "it returns before the runs have ended"
    arrays = {a["variants"][0]: a for a in submission(shell, "toy")["arrays"]}
    assert {name: (a["tasks"], a["runs"]) for name, a in arrays.items()} == {"full": (1, 2), "lora": (1, 2)}
    assert all(f"Job {array['job']}:" in output for array in arrays.values())
    code = provenance.code_sha256(shell.home)
    again = cluster.submit(shell, *words)
    assert "4 in the queue already" in again
    assert not (shell.folder / "runs/toy/.slurm/2").exists()
    (shell.home / "experiments/training/execute.py").write_text("raise RuntimeError('edited')")
    cluster.wait()
    records = shell.records()
    runs = [(r["spec"]["variant"], r["spec"]["seed"]) for r in records.values()]
    assert sorted(runs) == [("full", 0), ("full", 1), ("lora", 0), ("lora", 1)]
    assert {r["status"] for r in records.values()} == {"completed"}
    assert {r["env"]["code_sha256"] for r in records.values()} == {code}
    assert {r["env"]["slurm"]["job"] for r in records.values()} == {f"{a['job']}_0" for a in arrays.values()}
    assert (shell.folder / "runs/toy/report/report.html").is_file()
    assert cluster.sweep(shell, "watch", "runs/toy", "--every", "0.2")[0] == 0


def test_requeued_signalled_or_killed_runs_end_with_the_same_bits(cluster, module_shell, whole):
    shell, words = module_shell, (*LONG, "seed=0,1,2", "study=disturbed")
    cluster.submit(shell, *words)
    elements = cluster.running(shell, "disturbed", 3)
    by_seed = {int(name.split("-s")[-1].split("-")[0]): element for name, element in elements.items()}
    cluster.ask("scontrol", "requeue", by_seed[0])
    cluster.ask("scancel", "--signal=USR2", by_seed[2])
    os.kill(cluster.task(by_seed[1]), signal.SIGKILL)
    cluster.wait()
    records = shell.records("disturbed")
    assert sorted(r["spec"]["seed"] for r in records.values()) == [0, 2]
    _, status = cluster.sweep(shell, "status", "runs/disturbed")
    assert f"its job {by_seed[1]} is not in the queue any more" in status
    cluster.submit(shell, *words)
    cluster.wait()
    jobs = check_bits(shell, "disturbed", whole, 3)
    assert {seed: job["restarts"] for seed, job in jobs.items()} == {0: 1, 1: 0, 2: 1}
    assert [jobs[seed]["job"] == by_seed[seed] for seed in (0, 1, 2)] == [True, False, True]


def test_a_preempted_run_goes_on_afterwards(cluster, module_shell, whole):
    cluster.submit(module_shell, *LONG, "seed=0", "study=preempted")
    cluster.running(module_shell, "preempted", 1)
    cluster.ask("sbatch", "--partition=urgent", "--cpus-per-task=4", "--output=/dev/null", "--wrap=sleep 1")
    cluster.wait()
    assert check_bits(module_shell, "preempted", whole, 1)[0]["restarts"] == 1


def test_a_run_longer_than_its_time_limit_goes_on_in_the_next(cluster, module_shell, whole, stop):
    limits = ("hydra.launcher.minutes=2", "hydra.launcher.warning_seconds=60")
    cluster.submit(module_shell, *LONG, "seed=1", "study=limited", *limits)
    element = f"{submission(module_shell, 'limited')['arrays'][0]['job']}_0"
    cluster.started(module_shell, "limited", 1)
    [claim] = (module_shell.folder / "runs/limited/.claims").glob("adalora-*")  # the job has a lease, too
    worker = json.loads(claim.read_text())["pid"]
    with contextlib.suppress(ProcessLookupError):  # Slurm may warn a minute early: then it has saved and gone
        stop(worker)  # however fast the machine, the run is under way when the warning comes
        cluster.until(lambda: warned(worker), "Slurm sent no warning")
        os.kill(worker, signal.SIGCONT)
    cluster.until(
        lambda: "Restarts=0" not in cluster.ask("scontrol", "show", "job", element),
        "the job was not put back into the queue",
    )
    cluster.ask("scontrol", "update", f"JobId={element}", "TimeLimit=60")  # however slow the machine
    cluster.wait()
    # on a slow machine Slurm may warn, and the job go back, before its first step too
    assert check_bits(module_shell, "limited", whole, 1)[1]["restarts"] >= 1


def warned(process):
    """Whether a stopped process will get USR2 when it goes on."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except FileNotFoundError:
        raise ProcessLookupError from None
    pending = next(int(line.split()[1], 16) for line in lines if line.startswith("ShdPnd:"))
    return bool(pending >> (signal.SIGUSR2 - 1) & 1)


def test_a_cancelled_study_ends_and_is_taken_up_again(cluster, module_shell, whole):
    cluster.submit(module_shell, *LONG, "seed=0,1", "study=cancelled", "hydra.launcher.throttle=1")
    cluster.running(module_shell, "cancelled", 1)
    code, output = cluster.sweep(module_shell, "cancel", "runs/cancelled")
    assert code == 0, output
    assert "Cancelled: job" in output
    assert cluster.ask("squeue", "--noheader") == ""
    assert module_shell.records("cancelled") == {}
    code, output = cluster.sweep(module_shell, "retry", "runs/cancelled")
    assert code == 0, output
    cluster.wait()
    check_bits(module_shell, "cancelled", whole, 2)


def test_packs_that_were_requeued_or_killed_end_with_the_bits_of_undisturbed_ones(cluster, module_shell):
    """A task is a pack: its runs go on together, with all that had been saved of them."""
    shell, words = module_shell, (*LONG, "train.steps=2000", "seed=0,1,2,3", "pack=2")
    code, output = shell.run(*words, "workers=2", "study=packs")
    assert code == 0 and "4 runs in 2 packs of 2" in output, output
    whole = {name: shell.folder / "runs/packs" / name for name in shell.records("packs")}
    cluster.submit(shell, *words, "study=disturbed-packs", "checkpoint_steps=50")
    [array] = submission(shell, "disturbed-packs")["arrays"]
    assert (array["tasks"], array["runs"]) == (2, 4)
    cluster.running(shell, "disturbed-packs", 4)
    states = lambda: list((shell.folder / "runs/disturbed-packs/.packs").glob("*/step-*.pt"))  # noqa: E731
    cluster.until(lambda: len({path.parent for path in states()}) == 2, "no state of both packs was saved")
    cluster.ask("scontrol", "requeue", f"{array['job']}_0")
    os.kill(cluster.task(f"{array['job']}_1"), signal.SIGKILL)
    cluster.wait()
    assert len(shell.records("disturbed-packs")) == 2
    cluster.submit(shell, *words, "study=disturbed-packs")
    cluster.wait()
    check_bits(shell, "disturbed-packs", whole, 4)
    for name, record in shell.records("disturbed-packs").items():
        expected = json.loads((whole[name] / "record.json").read_text())
        assert record["pack"]["runs"] == expected["pack"]["runs"]
        log = (shell.folder / "runs/disturbed-packs" / name / "log.txt").read_text()
        assert log.count("starts at step 0 ") == 1 and log.count("starts at") == 2
