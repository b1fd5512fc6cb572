"""Worker processes of one machine: start them, hand out runs, notice deaths, pass on what they say.

A worker that dies, whatever killed it, costs the run that it had and nothing else: the run is recorded, a new
worker starts. Of a pack the worker's death says nothing about a single run. The pack goes on from its last
state, once; if that kills a worker, too, or memory had run out, its runs are tried again in two halves, down
to runs that train alone.
"""

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from experiments.config.settings import Terms
from experiments.errors import death
from experiments.spec import RunSpec
from experiments.sweep.resources import OomWatch, environment, fixed_threads, oom_kills

WORKER = (sys.executable, "-m", "experiments.sweep.worker")
GRACE_SECONDS = 60.0  # to reach a step boundary and write a checkpoint
BUSY_SECONDS = 2.0  # until a run that another process holds is tried again


@dataclass(frozen=True)
class PlannedRun:
    """A run to be done.

    `seen` is when the record that it is to replace was written, None without one. `kills` counts how often
    the kernel has ended its process because memory ran out.
    """

    run_id: str
    spec: RunSpec
    seen: int | None = None
    kills: int = 0


@dataclass(frozen=True)
class PlannedPack:
    """Runs to be trained together; a solo run is a pack of one. `members` as in `experiments.sweep.packs`.

    `died` is whether a worker has died with it.
    """

    runs: tuple[PlannedRun, ...]
    members: tuple[str, ...]
    died: bool = False

    @classmethod
    def of(cls, *runs: PlannedRun) -> "PlannedPack":
        """A pack that begins anew."""
        return cls(runs, tuple(run.run_id for run in runs))

    def order(self) -> dict:
        """What a worker is told of it."""
        runs = [
            {"run": r.spec.as_record(), "run_id": r.run_id, "seen": r.seen, "kills": r.kills}
            for r in self.runs
        ]
        return {"pack": runs, "members": list(self.members)}


@dataclass
class _Process:
    """A worker process and what it works on."""

    number: int
    process: subprocess.Popen[str]
    orders: IO[str]  # its standard input
    pack: PlannedPack | None = None
    left: dict[str, PlannedRun] = field(default_factory=dict)  # those of its runs that have not ended
    since: float = field(default_factory=time.monotonic)
    kills: int | None = None  # the kernel's for want of memory, when its work began
    ending: float | None = None  # since when it is being stopped for a run that took too long
    dead: bool = False

    def ask_to_stop(self) -> None:
        """At its next step boundary; also if somebody has paused it, for then it would not hear."""
        self.process.send_signal(signal.SIGTERM)
        self.process.send_signal(signal.SIGCONT)

    def send(self, order: dict) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):  # it died: the reader thread says so
            self.orders.write(json.dumps(order) + "\n")
            self.orders.flush()


@dataclass(frozen=True)
class Outcome:
    """How a run ended: an event of the worker, its death with the exit code, or "late" (it was stopped).

    A death by SIGKILL also says as `oom` whether it was the kernel's doing, None where nothing tells.
    """

    run: PlannedRun
    event: dict
    seconds: float


class Pool:
    """`size` workers, each with `threads` threads and at most one GPU of its own.

    Use as a context. `on_event(event)` receives what workers say on the way (started, step, note).
    """

    def __init__(
        self,
        size: int,
        *,
        threads: int,
        gpus: list[str],
        logs: Path,
        on_event: Callable[[dict], None],
        worker: Sequence[str] = WORKER,
        grace: float = GRACE_SECONDS,
        kills: Callable[[], int | None] = oom_kills,
    ):
        self.size, self.threads, self.gpus, self.logs, self.on_event = size, threads, gpus, logs, on_event
        self.command, self.grace = worker, grace
        self._events: queue.Queue[tuple[_Process, dict]] = queue.Queue()
        self._workers: list[_Process] = []
        self._waiting: deque[PlannedPack] = deque()
        self._later: deque[tuple[float, PlannedPack]] = deque()  # held by others: from when to try again
        self._kills = OomWatch(kills)
        self._stopped: float | None = None  # since when the workers are asked to stop

    def __enter__(self) -> "Pool":
        self.logs.mkdir(parents=True, exist_ok=True)
        self._workers = [self._start(number) for number in range(self.size)]
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.orders.close()
            worker.process.send_signal(signal.SIGCONT)  # somebody may have paused it
        deadline = time.monotonic() + self.grace
        for worker in self._workers:
            try:
                worker.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def check(self, order: dict) -> dict:
        """Have the first worker check or measure runs on the model; its answer, or how it died.

        A worker that somebody killed meanwhile says nothing of the runs: another one does it, once.
        """
        if self._workers[0].dead:
            self._workers[0] = self._start(0)
        worker, replaced = self._workers[0], False
        worker.send(order)
        while True:
            self._kill_unresponsive()
            try:
                origin, event = self._events.get(timeout=1.0)
            except queue.Empty:
                continue
            if event["event"] == "died":
                origin.dead = True
                event = self._explained(origin, event)
                if origin is not worker:
                    continue
                if self.stopping or replaced or event["code"] >= 0 or event.get("oom"):
                    return event
                worker, replaced = self._start(worker.number), True
                self._workers[0] = worker
                worker.send(order)
            elif event["event"] in ("checked", "measured"):
                return event
            else:
                self.on_event(event)

    def run(self, runs: Iterable[PlannedRun | PlannedPack], *, root: Path, terms: Terms) -> Iterator[Outcome]:
        """Execute the runs and packs, in order, as workers become free; outcomes come as they happen, by run.

        A run that another process holds is waited for: it ends there, or is taken over from there. After
        `stop()` nothing new is handed out, and the outcomes of what was under way still come.
        """
        self._waiting.extend(r if isinstance(r, PlannedPack) else PlannedPack.of(r) for r in runs)
        while True:
            self._hand_out(root, terms)
            busy = [worker for worker in self._workers if worker.pack is not None]
            if not busy and (self.stopping or not (self._waiting or self._later)):
                return
            self._end_late(busy, terms.time_limit)
            self._kill_unresponsive()
            try:
                worker, event = self._events.get(timeout=1.0 if busy else 0.1)
            except queue.Empty:
                continue
            yield from self._heard(worker, event)

    def wait_for(self, run: PlannedRun) -> None:
        """Another process has this run: try it again after a while."""
        self._wait_for(PlannedPack.of(run))

    def _wait_for(self, pack: PlannedPack) -> None:
        self._later.append((time.monotonic() + BUSY_SECONDS, pack))
        self.on_event({"event": "waiting", "run_id": pack.runs[0].run_id})

    def with_less(self, run: PlannedRun) -> None:
        """Memory ran out during this run: have a new worker do it next, with half the rows at a time."""
        self._waiting.appendleft(PlannedPack.of(replace(run, kills=run.kills + 1)))

    def stop(self) -> None:
        """Ask every worker to stop at its next step boundary; the second time, kill them.

        Those that do not within the grace period are killed, too.
        """
        for worker in self._workers:
            if self.stopping:
                worker.process.kill()
            else:
                worker.ask_to_stop()
        self._stopped = self._stopped or time.monotonic()

    @property
    def stopping(self) -> bool:
        """Whether the workers were asked to stop."""
        return self._stopped is not None

    def _hand_out(self, root: Path, terms: Terms) -> None:
        while self._later and self._later[0][0] <= time.monotonic():
            self._waiting.append(self._later.popleft()[1])
        for place, worker in enumerate(self._workers):
            if not self._waiting or self.stopping:
                return
            if worker.dead:  # only now: whoever dies when there is nothing left need not be replaced
                worker = self._workers[place] = self._start(worker.number)
            if worker.pack is None and worker.ending is None:
                pack = worker.pack = self._waiting.popleft()
                worker.left = {run.run_id: run for run in pack.runs}
                worker.since, worker.kills = time.monotonic(), self._kills.count()
                often = {"seconds": terms.checkpoint_seconds, "steps": terms.checkpoint_steps}
                more = {"root": str(root), "checkpoint": often, "threads": fixed_threads()}
                more |= {"fsdp": terms.fsdp} if terms.fsdp > 1 else {}
                worker.send({**pack.order(), **more})

    def _heard(self, worker: _Process, event: dict) -> list[Outcome]:
        """Take in what a worker said; the outcomes of its runs, if it is that.

        "finished" is about one run, the others about all that are left of the pack.
        """
        event = self._explained(worker, event)
        kind, pack = event["event"], worker.pack
        if kind not in ("finished", "busy", "interrupted", "died"):
            self.on_event(event)
            return []
        worker.dead = kind == "died"
        if pack is None:
            return []
        ended = list(worker.left.values())
        if kind == "finished" and len(ended) > 1:
            ended = [worker.left[event["run_id"]]]
        for run in ended:
            del worker.left[run.run_id]
        if not worker.left:
            worker.pack = None
        if self.stopping and kind == "died":
            event = {"event": "interrupted"}  # at the second request with a kill
        elif kind in ("died", "interrupted") and worker.ending is not None:
            event = {"event": "late"}
        elif not self.stopping and (kind in ("busy", "interrupted") or event.get("code") == 0):
            self._wait_for(replace(pack, runs=tuple(ended)))  # another's, or its worker was stopped
            return []
        elif kind == "died" and not self.stopping and len(pack.runs) > 1:
            if pack.died or event.get("oom"):
                halves = [part for part in (ended[: len(ended) // 2], ended[len(ended) // 2 :]) if part]
                self._waiting.extendleft(PlannedPack.of(*part) for part in reversed(halves))
                then = "they are tried again in smaller packs"
            else:
                self._waiting.appendleft(PlannedPack(tuple(ended), pack.members, died=True))
                then = "they go on from their last state"
            text = f"A worker died ({how_died(event)}) with a pack of {len(pack.runs)} runs: {then}."
            self.on_event({"event": "note", "text": text})
            return []
        return [Outcome(run, event, time.monotonic() - worker.since) for run in ended]

    def _explained(self, worker: _Process, event: dict) -> dict:
        """The event; of a death by SIGKILL also whether the kernel did it."""
        if event.get("code") != -signal.SIGKILL:
            return event
        return {**event, "oom": self._kills.explains(worker.kills)}

    def _start(self, number: int) -> _Process:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        own = {} if fixed_threads() else {name: str(self.threads) for name in names}
        if self.gpus:
            own["CUDA_VISIBLE_DEVICES"] = self.gpus[number % len(self.gpus)]
        kills = self._kills.count()
        with (self.logs / f"worker-{number}.log").open("a") as log:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(PYTHONUNBUFFERED="1", TOKENIZERS_PARALLELISM="false", **own),
                start_new_session=True,  # Ctrl-C is for us, not for them
            )
        assert process.stdin is not None
        assert process.stdout is not None
        worker = _Process(number, process, process.stdin, kills=kills)
        threading.Thread(target=self._listen, args=(worker, process.stdout), daemon=True).start()
        return worker

    def _listen(self, worker: _Process, said: IO[str]) -> None:
        for line in said:
            with contextlib.suppress(ValueError):
                self._events.put((worker, json.loads(line)))
        self._events.put((worker, {"event": "died", "code": worker.process.wait()}))

    def _end_late(self, busy: list[_Process], minutes: float | None) -> None:
        """Stop the workers whose runs take too long, kill those that do not stop."""
        now = time.monotonic()
        for worker in busy:
            if worker.ending is not None:
                if now - worker.ending > self.grace:
                    worker.process.kill()
            elif worker.pack and minutes and now - worker.since > 60 * minutes * len(worker.pack.runs):
                worker.ending = now
                worker.ask_to_stop()

    def _kill_unresponsive(self) -> None:
        """Once the grace period is over, kill the workers that were asked to stop and did not."""
        if self._stopped is not None and time.monotonic() - self._stopped > self.grace:
            for worker in self._workers:
                worker.process.kill()


def how_died(event: dict) -> str:
    """Why a worker is gone, in a few words, from its event."""
    return "memory ran out" if event.get("oom") else death(event["code"])
