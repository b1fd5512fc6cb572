"""What a task does when Slurm interrupts it."""

import signal

import pytest

from experiments.sweep.slurm import task

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
