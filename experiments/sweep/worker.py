"""One worker: a process that loads the base once and executes the runs it is given, one after another.

    python -m experiments.sweep.worker        # started by the pool; not meant to be typed

It reads one JSON line per order from its standard input and answers with JSON lines on its standard output;
whatever else prints goes to standard error. When the input ends, or SIGTERM, SIGUSR1 or SIGUSR2 comes, it
stops at the next step boundary with its state in a checkpoint.

Orders:
    {"check": [[spec, how many], ...], "folder": ..., "workers": n}   -> checked: may these runs run here?
    {"run": spec, "run_id": ..., "root": folder}                      -> started, step, note ..., and at last
                                                                         finished | busy | interrupted
A run's order may also say `checkpoint` ({"seconds": ..., "steps": ...}) and `seen`: the time of the record
that is to be replaced, as `record.written` gives it. Another record than that is taken as the answer. `kills`
says how often the kernel has ended the run's process because memory ran out: so many times the rows at a time
are halved, and the run fails once nothing is left to halve. `threads` is how many the user fixed, if so.
"""

from experiments import provenance

if __name__ == "__main__":
    provenance.source()  # of the code that is imported from here on, not of what it is edited to meanwhile

import contextlib
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from experiments.errors import UserError
from experiments.record import FINISHED, RunFolder, read, written
from experiments.spec import RunSpec, from_record
from experiments.sweep.lease import Lease, acquire, leases
from experiments.sweep.plan import check_data

if TYPE_CHECKING:
    from experiments.training.loader import Loader

_NO_LESS = "the kernel ended the process because memory ran out, with one row at a time, too"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Events:
    """What happens, as lines for the pool. Runs report to it as to `experiments.console.progress`."""

    def __init__(self, out: TextIO):
        self._out = out

    def emit(self, event: str, **facts) -> None:
        """One line, at once; if nobody listens any more, the run goes on to where it notices."""
        with contextlib.suppress(BrokenPipeError):
            self._out.write(json.dumps({"event": event, **facts}) + "\n")
            self._out.flush()

    def run_started(self, run_id: str, steps: int, done: int = 0) -> None:
        """The run begins, or goes on."""
        self.emit("started", run_id=run_id, steps=steps, done=done)

    def step(self, run_id: str, step: int, loss: float | None = None) -> None:
        """So many steps are done; a loss that is no number is left out."""
        self.emit(
            "step", run_id=run_id, step=step, loss=loss if loss is not None and math.isfinite(loss) else None
        )

    def note(self, text: str) -> None:
        """Something a person should read."""
        self.emit("note", text=text)


class Worker:
    """Carries out orders until there are no more or it is stopped."""

    def __init__(self, events: Events):
        self.events = events
        self._loader: Loader | None = None
        self.stopping = False  # no Event: signals come in pairs, and one may interrupt another's set()

    def stop(self, *_: object) -> None:
        """Stop at the next step boundary; a signal's handler, too, while another is being handled."""
        self.stopping = True

    @property
    def loader(self) -> "Loader":
        """Its bases and data. Importing what loads them takes seconds, so not before the first order."""
        if self._loader is None:
            from experiments.training.loader import Loader

            self._loader = Loader()
        return self._loader

    def carry_out(self, order: dict) -> None:
        """One order; anything that a run throws ends that run, not the worker."""
        if "check" in order:
            kinds = {from_record(spec): count for spec, count in order["check"]}
            problems, notes = check(kinds, Path(order["folder"]), order["workers"], self.loader)
            self.events.emit("checked", problems=problems, notes=notes)
            return
        folder = RunFolder(Path(order["root"]) / order["run"]["study"] / order["run_id"])
        try:
            self.run(order, folder)
        except (UserError, OSError) as error:  # nothing can be written, not even a lease
            self._report(
                order["run_id"], {"status": "failed", "error": {"kind": "disk", "message": str(error)}}
            )

    def run(self, order: dict, folder: RunFolder) -> None:
        """Lease a cell, run it, write its record, and say how it went."""
        run_id = order["run_id"]
        lease = acquire(leases(folder.path.parent), run_id)
        if lease is None:
            self.events.emit("busy", run_id=run_id)
            return
        with lease:
            record: Mapping[str, Any] | None = read(folder.path)
            new = "seen" in order and written(folder.path) != order["seen"]
            if record is None or not (new or record["status"] in FINISHED):
                record = self._execute(order, folder, lease)
            if record is not None:
                lease.remove()
                if record["status"] in FINISHED:
                    folder.tidy()
        if record is None:
            self.events.emit("interrupted", run_id=run_id)
        else:
            self._report(run_id, record)

    def _report(self, run_id: str, record: Mapping[str, Any]) -> None:
        error = record.get("error", {})
        self.events.emit(
            "finished",
            run_id=run_id,
            status=record["status"],
            metrics=record.get("metrics", {}),
            error={key: error[key] for key in ("kind", "message") if key in error},
        )

    def _execute(self, order: dict, folder: RunFolder, lease: Lease) -> Mapping[str, Any] | None:
        from experiments import data, tracking
        from experiments.training import memory
        from experiments.training.execute import Interrupted, execute
        from experiments.training.result import fail
        from experiments.training.run_state import Run

        spec, run_id = from_record(order["run"]), order["run_id"]
        often = order.get("checkpoint", {"seconds": 60.0, "steps": None})
        run = Run(spec, run_id, folder, tracking.make(spec.tracker, notify=self.events.note), lease.valid)
        fits = all(run.halve() for _ in range(order.get("kills", 0)))
        for text in run.deviations:
            self.events.note(f"{run_id}: {text}")
        while True:
            try:
                if not fits:
                    run.begin()
                    raise MemoryError(_NO_LESS)
                check_data(spec, run_id, data.read(spec).fingerprint)
                return execute(
                    [run],
                    display=self.events,
                    should_stop=self._stop_for(lease),
                    checkpoint_every=often["seconds"],
                    checkpoint_steps=often["steps"],
                    loader=self.loader,
                    threads=order.get("threads"),
                )[0]
            except Interrupted:
                run.tracker.finish("preempted")
                return None
            except Exception as error:
                if not lease.valid():
                    return None
                if not (memory.is_out_of_memory(error) and run.halve()):
                    return fail(run, error)
            memory.release()  # what the failed attempt held, before the next one needs as much
            self.events.note(f"{run_id}: {run.deviations[-1]}")

    def _stop_for(self, lease: Lease) -> Callable[[], bool]:
        return lambda: self.stopping or not lease.valid()


def check(
    kinds: Mapping[RunSpec, int], folder: Path, workers: int, load: "Loader"
) -> tuple[list[str], list[str]]:
    """What stands against running these runs, and what their targets resolve to; loads each model once.

    Args:
        kinds: Specs, each with the number of runs like it (see `experiments.sweep.plan.kinds`).
        folder: The study, whose disk must have room.
        workers: How many runs are unfinished at a time.
        load: Where bases and data come from.
    """
    from experiments.training.preflight import check_room, check_runs

    try:
        found = check_runs(kinds, load)
        return found.problems or check_room(found, folder, workers=workers), found.notes
    except UserError as error:
        return [str(error)], []


def orders(lines: TextIO, worker: Worker) -> Iterator[dict]:
    """The orders as they come.

    They are read by a thread of their own, so that the end of input is noticed during a run.
    """
    import queue

    waiting: queue.SimpleQueue[dict | None] = queue.SimpleQueue()

    def read_lines() -> None:
        for line in lines:
            waiting.put(json.loads(line))
        worker.stop()  # whoever gave the orders is gone
        waiting.put(None)

    threading.Thread(target=read_lines, daemon=True).start()
    while not worker.stopping:
        order = waiting.get()
        if order is None or "stop" in order:
            return
        yield order


def listen(handler: Callable[[int, object], None] | signal.Handlers) -> None:
    """Have every signal that asks for an end go to a handler."""
    for number in STOP_SIGNALS:
        signal.signal(number, handler)


def main() -> None:
    """Serve until stopped.

    What libraries print goes to standard error: the output belongs to the protocol.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker(Events(out))
    listen(worker.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the pool decides
    worker.events.emit("ready")
    for order in orders(sys.stdin, worker):
        worker.carry_out(order)
    listen(signal.SIG_IGN)  # else one that comes while Python ends would look like a death


if __name__ == "__main__":
    main()
