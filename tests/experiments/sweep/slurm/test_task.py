"""What a task does when Slurm interrupts it, and when those before it all failed."""

import os
import signal
from pathlib import Path

import pytest

from experiments.record import RunFolder
from experiments.sweep import engine
from experiments.sweep.slurm import task
from experiments.sweep.worker import STOP_SIGNALS

STUDY = Path("runs/default")

RUNNING = "JobState=RUNNING\nPreemptEligibleTime=2026-01-01T10:00:00 PreemptTime={}"
COMPLETING = "JobState=COMPLETING PreemptTime=None"


@pytest.mark.parametrize(
    ("asked", "shown", "idle", "restarts", "requeued"),
    [
        (signal.SIGUSR2, RUNNING.format("None"), False, 0, True),
        (signal.SIGUSR1, RUNNING.format("None"), False, 0, True),
        (signal.SIGTERM, RUNNING.format("2026-01-01T10:01:00"), False, 0, True),
        (signal.SIGTERM, RUNNING.format("None"), False, 0, False),
        (signal.SIGTERM, COMPLETING, False, 0, False),
        (signal.SIGUSR2, RUNNING.format("None"), True, 1, True),
        (signal.SIGUSR2, RUNNING.format("None"), True, 2, False),
        (signal.SIGUSR2, RUNNING.format("None"), False, 30, True),
    ],
    ids=[
        "limit",
        "usr1",
        "preempted",
        "sent by hand",
        "cancelled",
        "nothing yet",
        "in vain",
        "in many parts",
    ],
)
def test_only_what_is_meant_to_go_on_is_queued_again(
    fake, monkeypatch, asked, shown, idle, restarts, requeued
):
    fake.write("scontrol", f'test "$1" = show && printf "{shown}"; exit 0')
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    task._go_on_later(asked, idle=idle)
    assert ("requeue 77_3" in fake.told("scontrol")) is requeued


@pytest.fixture
def element(fake, submitter, cells_of, monkeypatch):
    """Five runs as tasks of array 101: `element(3)` carries out the fourth, the engine only noting runs."""
    ran = []
    monkeypatch.setattr(engine, "run", lambda specs, **how: ran.extend(specs) or engine.DONE)
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "101")

    def make(index, *, before, **keys):
        specs = cells_of("variant=lora seed=range(0,5)")
        submitter(**keys).submit(specs)
        for spec, (status, message) in zip(specs, before, strict=False):
            record = {"run_id": spec.run_id("x"), "study": "default", "spec": spec.as_record()}
            error = {"error": {"kind": "ValueError", "message": message}} if message else {}
            folder = RunFolder(STUDY / spec.run_id(spec.dataset))
            folder.write_record(record | error | {"status": status})
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(index))
        return task.main([str(STUDY / ".slurm/1/1.jsonl")]), [spec.seed for spec in ran]

    yield make
    for number, handler in handlers.items():
        signal.signal(number, handler)


FAILED, DONE = ("failed", "no luck at 12"), ("completed", "")


@pytest.mark.parametrize(
    ("before", "keep_going", "stops"),
    [
        ([FAILED, FAILED, FAILED], False, True),
        ([FAILED, ("failed", "no luck at 7"), ("failed", "no luck at 9.5")], False, True),
        ([FAILED, FAILED, FAILED], True, False),
        ([FAILED, FAILED], False, False),
        ([FAILED, FAILED, ("failed", "another matter")], False, False),
        ([DONE, FAILED, FAILED, FAILED], False, False),
        ([FAILED, FAILED, FAILED, DONE], False, False),
    ],
)
def test_an_array_whose_first_runs_failed_the_same_way_ends(element, fake, capsys, before, keep_going, stops):
    code, ran = element(4, before=before, keep_going=keep_going)
    assert (code, ran) == ((1, []) if stops else (0, [4]))
    assert fake.told("scancel") == (["--state=PENDING 101"] if stops else [])
    assert ("failed in the same way" in capsys.readouterr().out) is stops


def test_failures_from_before_the_submission_stop_nothing(element, monkeypatch):
    """They are what the submission is to repair."""
    write = RunFolder.write_record

    def long_ago(self, *a, **k):
        write(self, *a, **k)
        os.utime(self.record, (1, 1))

    monkeypatch.setattr(RunFolder, "write_record", long_ago)
    assert element(4, before=[FAILED] * 4) == (0, [4])


@pytest.mark.parametrize("where", ["in the engine", "before it"])
def test_more_signals_do_not_keep_a_task_from_queueing_itself_again(
    element, fake, monkeypatch, capsys, where
):
    """Slurm sends them to whatever the step runs, its own scontrol included."""
    fake.write(
        "scontrol", 'test "$1" != requeue || for name in USR2 TERM USR1; do kill -$name $PPID $$; done'
    )

    def interrupted(specs, **how):
        if where == "before it":
            signal.raise_signal(signal.SIGUSR2)
        return 128 + signal.SIGUSR2

    monkeypatch.setattr(engine, "run", interrupted)
    assert element(3, before=[]) == (140, [])
    assert "requeue 101_3" in fake.told("scontrol")
    assert "Queued again" in capsys.readouterr().out
