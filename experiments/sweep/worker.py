"""One worker: a process that loads the base once and executes the runs it is given, one after another.

    python -m experiments.sweep.worker        # started by the pool; not meant to be typed

It reads one JSON line per order from its standard input and answers with JSON lines on its standard output;
whatever else prints goes to standard error. When the input ends, or SIGTERM, SIGUSR1 or SIGUSR2 comes, it
stops at the next step boundary with its state in a checkpoint.

Orders:
    {"check": [[spec, how many], ...], "folder": ..., "workers": [n, k]}   -> checked: may they run here?
    {"measure": [spec, ...], "sizes": [1, ...], "runs": n}            -> measured: seconds by size of a pack
    {"pack": [run, ...], "members": [run_id, ...], "root": folder, "checkpoint": {"seconds": n, "steps": n}}
        -> started, step, note ..., and at last finished for each run, or busy | interrupted for all left
It may also say `threads` (that the user fixed) and `fsdp` (processes of a run whose base is in shards). A run
is {"run": spec, "run_id": ...} and may have `seen` (when the record that is to be replaced was written, by
`record.written`: another one is the answer) and `kills` (how often the kernel has ended its process because
memory ran out: so often are the rows at a time halved, and with nothing left to halve it fails).
"""

from experiments import provenance

if __name__ == "__main__":
    provenance.source()  # of the code that is imported from here on, not of what it is edited to meanwhile

import contextlib
import json
import math
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from experiments.console.progress import Progress
from experiments.errors import UserError
from experiments.record import FINISHED, RunFolder, read, written
from experiments.spec import RunSpec, from_record
from experiments.sweep import packs
from experiments.sweep.lease import Lease, acquire, leases
from experiments.sweep.plan import check_data

if TYPE_CHECKING:
    from experiments.training.loader import Loader

_NO_LESS = "the kernel ended the process because memory ran out, with one row at a time, too"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Events(Progress):
    """What happens, as lines for the pool."""

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
        """Stop at the next step boundary; also a signal's handler while another is being handled."""
        self.stopping = True

    @property
    def loader(self) -> "Loader":
        """Its bases and data. Importing what loads them takes seconds, so not before the first order."""
        from experiments.training.loader import Loader

        self._loader = self._loader or Loader()
        return self._loader

    def carry_out(self, order: dict) -> None:
        """One order; anything that a run throws ends that run, not the worker."""
        if "check" in order:
            kinds = {from_record(spec): count for spec, count in order["check"]}
            problems, notes = check(kinds, Path(order["folder"]), order["workers"], self.loader)
            self.events.emit("checked", problems=problems, notes=notes)
            return
        if "measure" in order:
            self.events.emit("measured", seconds=self._measured(order))
            return
        try:
            _PackOrder(self, order).carry_out()
        except (UserError, OSError) as error:  # nothing can be written, not even a lease
            failed = {"status": "failed", "error": {"kind": "disk", "message": str(error)}}
            for run in order["pack"]:
                self.report(run["run_id"], failed)

    def _measured(self, order: dict) -> dict[int, float]:
        """Seconds of a step by the size of a pack; what cannot be measured is not packed."""
        from experiments.training.pace import curve

        specs = [from_record(spec) for spec in order["measure"]]
        try:
            return curve(specs, order["sizes"], self.loader, runs=order["runs"], worth=packs.WORTH_SECONDS)
        except Exception as error:
            self.events.note(f"pack=auto: no step could be measured ({type(error).__name__}: {error})")
            return {}

    def report(self, run_id: str, record: Mapping[str, Any]) -> None:
        error = record.get("error", {})
        self.events.emit(
            "finished",
            run_id=run_id,
            status=record["status"],
            metrics=record.get("metrics", {}),
            error={key: error[key] for key in ("kind", "message") if key in error},
        )

    def execute(self, order: dict, folder: RunFolder, lease: Lease) -> Mapping[str, Any] | None:
        """Train a run alone; its record, or None if it was interrupted. `order` is its own and the pack's."""
        from experiments import data, tracking
        from experiments.training import memory
        from experiments.training.execute import Interrupted, execute
        from experiments.training.result import fail
        from experiments.training.run_state import Run
        from experiments.training.sharded import together

        spec, run_id, processes = from_record(order["run"]), order["run_id"], order.get("fsdp", 1)
        often = order["checkpoint"]
        run = Run(spec, run_id, folder, tracking.make(spec.tracker, notify=self.events.note), lease.valid)
        fits = all(run.halve(processes) for _ in range(order.get("kills", 0)))
        for text in run.deviations:
            self.events.note(f"{run_id}: {text}")
        while True:
            try:
                if not fits:
                    run.begin()
                    raise MemoryError(_NO_LESS)
                check_data(spec, run_id, data.fingerprint(spec, as_read=True))  # of what is trained on
                if processes > 1:
                    self._loader = None  # a whole base has no place beside its shards
                with together(run.training, processes, order.get("threads")) as group:
                    return execute(
                        [run],
                        display=self.events,
                        should_stop=self.stop_for([lease]),
                        checkpoint_every=often["seconds"],
                        checkpoint_steps=often["steps"],
                        loader=None if group else self.loader,
                        threads=order.get("threads"),
                        group=group,
                    )[0]
            except Interrupted:
                run.tracker.finish("preempted")
                return None
            except Exception as error:
                if not lease.valid():
                    return None
                if not (memory.is_out_of_memory(error) and run.halve(processes)):
                    return fail(run, error)
            memory.release()  # what the failed attempt held, before the next one needs as much
            self.events.note(f"{run_id}: {run.deviations[-1]}")

    def stop_for(self, held: Collection[Lease]) -> Callable[[], bool]:
        """Whether to stop at the next step boundary: told to, or some run is another's by now."""
        return lambda: self.stopping or not all(lease.valid() for lease in held)


class _PackOrder:
    """One order to train a pack: under the leases of all its runs, with a record for each."""

    def __init__(self, worker: Worker, order: dict):
        self.worker, self.order = worker, order
        self.study = Path(order["root"]) / order["pack"][0]["run"]["study"]
        self.leases: dict[str, Lease] = {}  # of the runs that have not ended
        self.often = order["checkpoint"]

    def carry_out(self) -> None:
        """Lease every run or none, leave out those that have ended, train the others together."""
        with ExitStack() as stack:
            for run in self.order["pack"]:
                if (lease := acquire(leases(self.study), run["run_id"])) is None:
                    self.worker.events.emit("busy", run_id=run["run_id"])
                    return
                self.leases[run["run_id"]] = stack.enter_context(lease)
            todo = []
            for run in self.order["pack"]:
                record = answer(run, self._folder(run["run_id"]))
                if record is None:
                    todo.append(run)
                else:
                    self._conclude(run["run_id"], record)
            members = self.order["members"]
            if not packs.has_state(packs.folder_of(self.study, members)):
                members = [run["run_id"] for run in todo]
            if todo and not self._train(todo, members):
                self.worker.events.emit("interrupted", run_id=todo[0]["run_id"])

    def _train(self, todo: Sequence[dict], members: Sequence[str]) -> bool:
        """Train runs together; False if they were interrupted.

        Whatever goes wrong with several runs, memory that runs out included, is tried again in two halves.
        """
        if len(members) == 1:
            [run] = todo
            lease = self.leases[run["run_id"]]
            record = self.worker.execute({**self.order, **run}, self._folder(run["run_id"]), lease)
            if record is not None:
                self._conclude(run["run_id"], record)
            return record is not None
        from experiments.training import memory

        folder = packs.folder_of(self.study, members)
        try:
            packs.write_down(folder, members)
            records = self._execute(todo, members, folder)
        except Exception as error:
            if not all(lease.valid() for lease in self.leases.values()):
                return False
            text = f"a pack of {len(members)} runs ended with {type(error).__name__}: {error}".rstrip(": ")
            self.worker.events.note(f"{text}. They are tried again in smaller packs.")
        else:
            if records is None:
                return False
            for record in records:
                self._conclude(record["run_id"], record)
            shutil.rmtree(folder, ignore_errors=True)  # all of its runs have ended
            return True
        memory.release()  # what the failed attempt held
        shutil.rmtree(folder, ignore_errors=True)
        left = [run for run in todo if answer(run, self._folder(run["run_id"])) is None]
        halves = [part for part in (left[: len(left) // 2], left[len(left) // 2 :]) if part]
        return all(self._train(half, [run["run_id"] for run in half]) for half in halves)

    def _execute(
        self, todo: Sequence[dict], members: Sequence[str], folder: Path
    ) -> list[dict[str, Any]] | None:
        from experiments import data, tracking
        from experiments.training.execute import Interrupted, execute
        from experiments.training.run_state import Run

        orders = {run["run_id"]: run for run in todo}
        runs = []
        for run_id in members:
            at = self._folder(run_id)
            ended = run_id not in orders
            spec = from_record(json.loads(at.spec.read_text()) if ended else orders[run_id]["run"])
            tracker = tracking.make(
                {"name": "none"} if ended else spec.tracker, notify=self.worker.events.note
            )
            owned = (lambda: True) if ended else self.leases[run_id].valid
            runs.append(Run(spec, run_id, at, tracker, owned, ended))
            check_data(spec, run_id, data.fingerprint(spec, as_read=True))
        try:
            return execute(
                runs,
                display=self.worker.events,
                should_stop=self.worker.stop_for([*self.leases.values()]),
                checkpoint_every=self.often["seconds"],
                checkpoint_steps=self.often["steps"],
                loader=self.worker.loader,
                state=folder,
                threads=self.order.get("threads"),
            )
        except Interrupted:
            return None
        finally:
            for run in runs:  # nothing that has finished already hears it
                if read(run.folder.path) is None:
                    run.tracker.finish("preempted")

    def _folder(self, run_id: str) -> RunFolder:
        return RunFolder(self.study / run_id)

    def _conclude(self, run_id: str, record: Mapping[str, Any]) -> None:
        conclude(record, self._folder(run_id), self.leases.pop(run_id))  # given back: not valid any more
        self.worker.report(run_id, record)


def answer(order: Mapping[str, Any], folder: RunFolder) -> Mapping[str, Any] | None:
    """The record of a run that needs no more training: it has ended, or failed elsewhere since the plan."""
    record = read(folder.path)
    new = "seen" in order and written(folder.path) != order["seen"]
    return record if record is not None and (new or record["status"] in FINISHED) else None


def conclude(record: Mapping[str, Any], folder: RunFolder, lease: Lease) -> None:
    """After the record of a run is written: forget its leases, and what is in its way."""
    lease.remove()
    if record["status"] in FINISHED:
        folder.tidy()


def check(
    kinds: Mapping[RunSpec, int], folder: Path, workers: Sequence[int], load: "Loader"
) -> tuple[list[str], list[str]]:
    """What stands against running these runs, and what their targets resolve to; loads each model once.

    Args:
        kinds: Specs, each with the number of runs like it (see `experiments.sweep.plan.kinds`).
        folder: The study, whose disk must have room.
        workers: How many packs are unfinished at a time, and the most runs of one.
        load: Where bases and data come from.
    """
    from experiments.training.preflight import check_room, check_runs

    try:
        found = check_runs(kinds, load)
        return found.problems or check_room(found, folder, *workers), found.notes
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
