"""End what is queued or running of a study: its Slurm jobs, and its processes on this machine.

python -m experiments.sweep cancel runs/demo

Runs under way save their state first; the command that started them goes on from there.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.errors import UserError
from experiments.record import run_folders
from experiments.sweep.lease import holder, is_held, is_here, leases, running_commands
from experiments.sweep.slurm import client
from experiments.sweep.slurm.submission import jobs_in, submissions
from experiments.sweep.status import snapshot
from experiments.sweep.study import study_argument

SECONDS = 120.0  # for what runs to save its state


def arguments(parser: argparse.ArgumentParser) -> None:
    study_argument(parser)


def main(options: argparse.Namespace) -> int:
    study = options.study
    before = snapshot(study)
    queue = client.queue() if submissions(study) else []
    try:
        jobs = _cancel_jobs(study, queue or [])
    finally:  # whatever Slurm says, what runs here is ended
        processes = _end_processes(study)
    _wait_for_jobs(study, jobs)
    left = _wait_for_holders(study, here_alone=queue is None)
    if queue is None:
        raise UserError(f"squeue does not answer here, so the jobs of {study} are unknown: try a login node.")
    if not jobs and not processes and not left:
        print(f"Nothing of {study} is queued or running: {before.counts()}.")
        return 0
    for name, held in left.items():
        print(f"Still running: {name}, process {held['pid']} on {held['host']}. End that process there.")
    begun = before.runs or any(run_folders(study))
    print(f"{snapshot(study).counts() if begun else 'no run had begun'}. The same command goes on from here.")
    return 1 if left else 0


def _cancel_jobs(study: Path, queue: Sequence[client.Element]) -> list[str]:
    """Take the study's jobs out of the queue; their numbers."""
    jobs = jobs_in(study, queue)
    if jobs:
        client.cancel(jobs)
    return jobs


def _wait_for_jobs(study: Path, jobs: Sequence[str]) -> None:
    """Wait until cancelled jobs are out of the queue, and say which are."""
    if not jobs:
        return
    _until(lambda: not jobs_in(study, client.queue() or []))
    left = jobs_in(study, client.queue() or [])
    print(f"Cancelled: {', '.join(f'job {job}' for job in jobs if job not in left)}.")
    if left:
        print(f"Slurm is still ending {', '.join(f'job {job}' for job in left)}.")


def _wait_for_holders(study: Path, *, here_alone: bool) -> dict[str, dict]:
    """Wait until nobody works on the study, or nobody of this machine; who still is."""

    def left() -> dict[str, dict]:
        return {name: held for name, held in _held(study).items() if is_here(held) or not here_alone}

    _until(lambda: not left())
    return left()


def _end_processes(study: Path) -> list[int]:
    """Ask the commands of this machine that work on the study to stop; also workers that outlived theirs."""
    commands = [held["pid"] for held in running_commands(study) if is_here(held)]
    holders = {held["pid"] for held in _runs_held(study).values() if is_here(held)}
    stopped = []
    for process in [*commands, *sorted(pid for pid in holders if _parent(pid) not in commands)]:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself a moment ago
            try:
                os.kill(process, signal.SIGTERM)
            except PermissionError:
                print(f"Process {process} is another user's.")
                continue
            print(f"Asked process {process} to stop.")
            stopped.append(process)
    return stopped


def _parent(process: int) -> int | None:
    found = subprocess.run(["ps", "-o", "ppid=", "-p", str(process)], capture_output=True, text=True)
    return int(found.stdout) if found.stdout.strip() else None


def _held(study: Path) -> dict[str, dict]:
    """Who works on the study, by run; commands by their process."""
    commands = {f"a command ({held['pid']})": held for held in running_commands(study)}
    return _runs_held(study) | commands


def _runs_held(study: Path) -> dict[str, dict]:
    """Who holds which run, of those alive."""
    folder = leases(study)
    names = {path.name.rpartition(".")[0] for path in folder.glob("[!.]*.*")} if folder.is_dir() else set()
    return {name: held for name in sorted(names) if is_held(folder, name) and (held := holder(folder, name))}


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true() and time.monotonic() < deadline:
        time.sleep(0.5)
