"""Worker processes of one machine: start them, hand out cells, notice deaths, pass on what they say.

A worker that dies, whatever killed it, costs the run that it had and nothing else: the run is recorded, a new
worker starts.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

_HOME = Path(__file__).parents[2]  # so that workers find the packages even where nothing is installed
GRACE_SECONDS = 60.0  # to reach a step boundary and write a checkpoint


@dataclass(frozen=True)
class Cell:
    """A run to be done: its identity and its spec as JSON."""

    run_id: str
    spec: dict


@dataclass
class _Process:
    """A worker process and what it is at."""

    number: int
    process: subprocess.Popen[str]
    orders: IO[str]  # its standard input
    cell: Cell | None = None
    since: float = field(default_factory=time.monotonic)
    died: bool = False

    def send(self, order: dict) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):  # it died: the reader thread says so
            self.orders.write(json.dumps(order) + "\n")
            self.orders.flush()


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: an event of the worker, or its death with the signal or exit code."""

    cell: Cell
    event: dict
    seconds: float


class Pool:
    """`size` workers, each with `threads` threads and at most one GPU of its own.

    Use as a context. `on_event(event)` receives what workers say on the way (started, step, note).
    """

    def __init__(
        self, size: int, *, threads: int, gpus: list[int], logs: Path, on_event: Callable[[dict], None]
    ):
        self.size, self.threads, self.gpus, self.logs, self.on_event = size, threads, gpus, logs, on_event
        self._events: queue.Queue[tuple[_Process, dict]] = queue.Queue()
        self._workers: list[_Process] = []
        self.stopping = False

    def __enter__(self) -> "Pool":
        self.logs.mkdir(parents=True, exist_ok=True)
        self._workers = [self._start(number) for number in range(self.size)]
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.orders.close()
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in self._workers:
            try:
                worker.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()

    def check(self, specs: list[dict]) -> dict:
        """Have the first worker check the cells against the model; its answer, or how it died."""
        worker = self._workers[0]
        worker.send({"check": specs})
        while True:
            origin, event = self._events.get()
            if event["event"] == "checked" or (event["event"] == "died" and origin is worker):
                return event
            if event["event"] == "died":
                self._replace(origin)
            else:
                self.on_event(event)

    def run(self, cells: list[Cell], *, root: Path, time_limit: float | None = None) -> Iterator[Outcome]:
        """Run the cells, in order, as workers become free; outcomes come as they happen.

        After `stop()` nothing new is handed out, and the outcomes of what was under way still come.
        """
        waiting = list(reversed(cells))
        while True:
            for worker in self._workers:
                if worker.cell is None and waiting and not self.stopping:
                    worker.cell, worker.since = waiting.pop(), time.monotonic()
                    worker.send({"run": worker.cell.spec, "run_id": worker.cell.run_id, "root": str(root)})
            busy = [worker for worker in self._workers if worker.cell is not None]
            if not busy:
                return
            try:
                worker, event = self._events.get(timeout=1.0)
            except queue.Empty:
                self._end_late(busy, time_limit)
                continue
            if event["event"] in ("finished", "busy", "interrupted", "died"):
                if worker.cell is not None:
                    yield Outcome(worker.cell, event, time.monotonic() - worker.since)
                worker.cell = None
                if event["event"] == "died" and waiting and not self.stopping:
                    self._replace(worker)
            else:
                self.on_event(event)

    def stop(self) -> None:
        """Ask every worker to stop at its next step boundary; asked twice, kill them."""
        for worker in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.process.pid, signal.SIGKILL if self.stopping else signal.SIGTERM)
        self.stopping = True

    def _start(self, number: int) -> _Process:
        environment = dict(os.environ, PYTHONUNBUFFERED="1", TOKENIZERS_PARALLELISM="false")
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(_HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        environment |= {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(self.gpus[number % len(self.gpus)])
        with (self.logs / f"worker-{number}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "experiments.sweep.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us, not for them
            )
        assert process.stdin is not None
        assert process.stdout is not None
        worker = _Process(number, process, process.stdin)
        threading.Thread(target=self._listen, args=(worker, process.stdout), daemon=True).start()
        return worker

    def _listen(self, worker: _Process, said: IO[str]) -> None:
        for line in said:
            with contextlib.suppress(ValueError):
                self._events.put((worker, json.loads(line)))
        self._events.put((worker, {"event": "died", "code": worker.process.wait()}))

    def _replace(self, dead: _Process) -> None:
        self._workers[self._workers.index(dead)] = self._start(dead.number)

    def _end_late(self, busy: list[_Process], time_limit: float | None) -> None:
        for worker in busy:
            if time_limit is not None and time.monotonic() - worker.since > time_limit:
                worker.process.kill()
