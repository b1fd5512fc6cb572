"""`python -m experiments.sweep` on a study that was submitted; Slurm is a false one."""

import json
import os
import signal
from pathlib import Path

import pytest

from experiments.console import commands
from experiments.record import RunFolder
from experiments.sweep.lease import registered
from experiments.sweep.slurm.submission import submissions

STUDY = Path("runs/default")


def sweep(*words):
    return commands.run("experiments.sweep", "About.", words)


@pytest.fixture
def names(fake, submitter, cells_of):
    """Five runs, submitted as 101_0 to 101_4; the first has completed, the second failed, two are queued."""
    specs = cells_of("variant=lora seed=range(0,5)")
    submitter().submit(specs)
    names = [spec.run_id(spec.dataset) for spec in specs]
    for spec, name, status in zip(specs[:2], names, ("completed", "failed"), strict=False):
        record = {"run_id": name, "study": "default", "status": status, "spec": spec.as_record()}
        folder = RunFolder(STUDY / name)
        folder.write_spec(spec.as_record())
        folder.write_record(record | ({"error": {"message": "no luck"}} if status == "failed" else {}))
    fake.queue("101|2|RUNNING|None", "101|3|PENDING|Priority", "102||PENDING|Dependency")
    return names


def test_status_says_what_the_queue_knows(names, capsys):
    assert sweep("status", str(STUDY)) == 0
    lines = capsys.readouterr().out.splitlines()
    told = dict(line.split(None, 1) for line in lines if line.startswith("lora"))
    assert told[names[0]] == "completed"
    assert told[names[1]] == "failed, no luck"
    assert told[names[2]] == "queued, as job 101_2, which is running"
    assert told[names[3]] == "queued, as job 101_3 (Priority)"
    assert told[names[4]].startswith("unfinished, its job 101_4 is not in the queue any more; see runs/")
    assert lines[-3:-1] == ["job 101: 1 running, 1 pending (Priority)", "job 102: 1 pending (Dependency)"]
    assert lines[-1] == "2 queued, 1 completed, 1 failed, 1 unfinished"


def test_status_asks_sacct_where_there_is_one(names, fake, capsys):
    fake.write("sacct", "echo '101_4|OUT_OF_MEMORY'; echo '101_1|CANCELLED by 0'")
    sweep("status", str(STUDY))
    assert "its job 101_4 ended, OUT_OF_MEMORY; see" in capsys.readouterr().out


def test_status_without_squeue_says_what_it_does_not_know(names, fake, capsys):
    fake.write("squeue", "exit 1")
    assert sweep("status", str(STUDY)) == 0
    assert "squeue does not answer here" in capsys.readouterr().out


def test_watch_ends_when_nothing_is_under_way_and_says_what_is_left(names, fake, capsys):
    fake.queue()
    assert sweep("watch", str(STUDY), "--every", "0") == 1
    output = capsys.readouterr().out
    assert names[1] in output and names[0] not in output
    assert "experiments.sweep retry runs/default" in output


def test_cancel_ends_the_studys_jobs_and_no_others(names, fake, capsys):
    (Path.cwd() / "queue").open("a").write("7|0|RUNNING|None\n")
    assert sweep("cancel", str(STUDY)) == 0
    assert fake.told("scancel") == ["101 102"]
    output = capsys.readouterr().out
    assert "Cancelled: job 101, job 102." in output
    assert sweep("cancel", str(STUDY)) == 0
    assert "Nothing of runs/default is queued or running" in capsys.readouterr().out


def test_retry_submits_what_has_no_result_and_is_not_under_way(names, submitter):
    assert sweep("retry", str(STUDY)) == 0
    [array] = submissions(STUDY)[-1].arrays
    lines = (submissions(STUDY)[-1].folder / array["file"]).read_text().splitlines()
    assert [json.loads(line)[0]["run_id"] for line in lines] == [names[1], names[4]]
    assert submissions(STUDY)[-1].content["settings"] == submissions(STUDY)[0].content["settings"]


def test_retry_of_a_named_run_sets_its_record_aside(names):
    assert sweep("retry", str(STUDY), names[0]) == 0
    assert (STUDY / names[0] / "record.1.json").exists()
    assert submissions(STUDY)[-1].arrays[0]["runs"] == 1


def test_cancel_without_squeue_ends_what_runs_here_before_it_says_so(names, fake, monkeypatch, capsys):
    fake.write("squeue", "exit 1")
    monkeypatch.setattr("experiments.sweep.commands.cancel.SECONDS", 0.0)
    killed = []
    monkeypatch.setattr(os, "kill", lambda *a: killed.append(a))
    with registered(STUDY):
        assert sweep("cancel", str(STUDY)) == 2
    assert killed == [(os.getpid(), signal.SIGTERM)]
    said = capsys.readouterr()
    assert "squeue does not answer here" in said.err


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"arrays": 3, "after": []}', "[" * 9999])
def test_a_damaged_submission_is_named(names, capsys, content):
    (STUDY / ".slurm/1/submission.json").write_text(content)
    for command in ("status", "cancel", "retry"):
        assert sweep(command, str(STUDY)) == 2
        assert "submission.json is damaged" in capsys.readouterr().err
