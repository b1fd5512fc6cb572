"""End what is queued or running of a study: its Slurm jobs, and its processes on this machine.

python -m experiments.sweep cancel runs/demo

Runs under way save their state first; the command that started them goes on from there.
"""

import argparse
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from experiments.errors import UserError
from experiments.sweep.claim import holder, is_held
from experiments.sweep.slurm import client
from experiments.sweep.slurm.submission import jobs_in, submissions
from experiments.sweep.standing import look
from experiments.sweep.study import study_argument

SECONDS = 120.0  # for what runs to save its state


def arguments(parser: argparse.ArgumentParser) -> None:
    study_argument(parser)


def main(options: argparse.Namespace) -> int:
    study = options.study
    before = look(study)
    jobs = _end_jobs(study)
    processes = _end_processes(study)
    if not jobs and not processes and not _held(study):
        print(f"Nothing of {study} is queued or running: {before.counts()}.")
        return 0
    _until(lambda: not _held(study))
    for run_id, held in _held(study).items():
        print(f"Still running: {run_id}, process {held['pid']} on {held['host']}. End that process there.")
    print(f"{look(study).counts()}. The same command goes on from here.")
    return 1 if _held(study) else 0


def _end_jobs(study: Path) -> list[str]:
    """Cancel the study's jobs and wait until they are out of the queue."""
    if not submissions(study):
        return []
    queue = client.queue()
    if queue is None:
        raise UserError(f"squeue does not answer here, so the jobs of {study} are unknown: try a login node.")
    jobs = jobs_in(study, queue)
    if jobs:
        client.cancel(jobs)
        _until(lambda: not jobs_in(study, client.queue() or []))
        left = jobs_in(study, client.queue() or [])
        print(f"Cancelled: {', '.join(f'job {job}' for job in jobs if job not in left)}.")
        if left:
            print(f"Slurm is still ending {', '.join(f'job {job}' for job in left)}.")
    return jobs


def _end_processes(study: Path) -> set[int]:
    """Ask the commands of this machine that are at the study to stop."""
    held = [held for held in _held(study).values() if held["host"] == socket.gethostname()]
    asked = {_command(held["pid"]) for held in held}
    for process in asked:
        os.kill(process, signal.SIGTERM)
        print(f"Asked process {process} to stop.")
    return asked


def _command(worker: int) -> int:
    """The process that gives a worker its runs: a worker alone would be replaced."""
    asked = subprocess.run(["ps", "-o", "ppid=,args=", "-p", str(worker)], capture_output=True, text=True)
    parent, _, command = asked.stdout.strip().partition(" ")
    return int(parent) if "experiments.sweep.worker" in command and int(parent) > 1 else worker


def _held(study: Path) -> dict[str, dict]:
    """Who holds which run, of those alive."""
    claims = study / ".claims"
    names = {path.name.rpartition(".")[0] for path in claims.glob("[!.]*.*")} if claims.is_dir() else set()
    return {name: held for name in sorted(names) if is_held(claims, name) and (held := holder(claims, name))}


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true() and time.monotonic() < deadline:
        time.sleep(0.5)
