"""Faults put into real runs: a tiny model, workers in processes of their own, results judged by their bytes.

A worker reaches *boundaries*: both sides of each rename, link, unlink, fsync and optimiser step, and the
middle and the end of each line of the history. A fault happens at one of them, drawn at random; then the run
is given to new workers, as the same command would, until it has ended. How many threads each worker starts
with is drawn, too, as it changes between commands with the number of runs that are left; and of a pack, how
many runs train together.
"""

import hashlib
import io
import json
import os
import pickle
import random
import resource
import signal
import string
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from experiments import data, history
from experiments.bench.fake import specs_of
from experiments.record import FINISHED, RunFolder, read, written
from experiments.spec import RunSpec
from experiments.sweep import packs
from experiments.sweep.integrity import IntegrityCheck, quarantine_damaged
from experiments.sweep.lease import leases
from experiments.sweep.pool import PlannedPack, PlannedRun
from experiments.sweep.worker import Events, Worker
from experiments.training.adamw import PackedAdamW
from experiments.training.loader import Loader

STEPS = 6
SECONDS = 300  # after which an attempt hangs
Fault = Callable[[int, Worker], None]  # called at each boundary with its number
KINDS = ("kill", "stop", "late", "checkpoint", "history", "result", "disk")


def arm(reached: Callable[[str], None]) -> None:
    """Have this process call `reached(name)` at each boundary, for good."""

    def around(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def wrapped(*arguments: Any, **how: Any) -> Any:
            reached(name)
            result = real(*arguments, **how)
            reached(name)
            return result

        setattr(owner, name, wrapped)

    for name in ("replace", "rename", "link", "unlink", "fsync"):
        around(os, name)
    around(PackedAdamW, "step")

    def in_halves(file: Any, data: bytes) -> None:
        file.write(data[: len(data) // 2])
        reached("half a line")
        file.write(data[len(data) // 2 :])
        reached("a line")

    history._write_all = in_halves


def specs(folder: Path, names: list[str]) -> dict[str, list[RunSpec]]:
    """Small runs by name ("lora", or "lora+dora" for a pack), on a model and a table put into `folder`."""
    _model(folder / "model")
    rows = (f"{'good' if i % 3 else 'bad'} {i},{'yes' if i % 3 else 'no'}" for i in range(90))
    (folder / "toy.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    words = [
        "model=hf", f"model.path={folder / 'model'}", "dataset=csv", f"dataset.path={folder / 'toy.csv'}",
        "dataset.text=text", "dataset.label=label", "dataset.max_length=16", f"train.steps={STEPS}",
        "train.batch_size=8", "train.log_every=2", "train.evaluations=2", "study=toy",
    ]  # fmt: skip
    return {
        name: [specs_of(f"variant={variant}", "r=2", *words)[0] for variant in name.split("+")]
        for name in names
    }


def _model(folder: Path) -> None:
    """A random BERT backbone of 2 layers and width 24, whose tokens are letters and digits."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    signs = [*string.ascii_lowercase, *string.digits]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs, *(f"##{sign}" for sign in signs)]
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **shape)).save_pretrained(folder)
    BertTokenizerFast({word: i for i, word in enumerate(words)}).save_pretrained(folder)


@dataclass
class Bench:
    """One run, or the runs of a pack, each time in a folder of its own below `root`."""

    root: Path
    specs: list[RunSpec]
    boundaries: int = 0
    run_ids: list[str] = field(default_factory=list)
    # the files of runs that were left alone, by who trained together and the number of threads
    undisturbed: dict[tuple[tuple[str, ...], int], dict[str, dict[str, bytes]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.run_ids = [spec.run_id(data.fingerprint(spec)) for spec in self.specs]
        self.loader = Loader()
        self._carry_out(self.root / "first")  # here: attempts are forks of a process that has all it needs
        [first] = self._packs(self.root / "counted", len(self.specs))
        self.boundaries = self.attempt(self.root / "counted", 1) or 0
        for threads in (1, 2):
            self.expected(first.members, threads)

    def expected(self, members: tuple[str, ...], threads: int) -> dict[str, dict[str, bytes]]:
        """The lasting files, by run, of runs that trained together and were left alone."""
        if (members, threads) not in self.undisturbed:
            folder = self.root / f"undisturbed-{len(self.undisturbed)}"
            self.attempt(folder, threads, members=members)
            for run_id in members:
                found = read(self.path(folder, run_id)) or {}
                if found.get("status") != "completed" or found["env"]["threads"] != threads:
                    raise RuntimeError(f"an undisturbed run failed: {found}")
            self.undisturbed[members, threads] = {name: self.lasting(folder, name) for name in members}
        return self.undisturbed[members, threads]

    def attempt(
        self,
        folder: Path,
        threads: int,
        size: int | None = None,
        *,
        fault: Fault = lambda number, worker: None,
        members: tuple[str, ...] | None = None,
    ) -> int | None:
        """Give what is missing to a new worker; the boundaries that it reached, None if it was killed.

        Args:
            folder: Of the study.
            threads: How many the worker starts with.
            size: The most runs that train together; None: all.
            fault: What happens to the worker.
            members: The runs to be trained together instead.
        """
        counted = folder.with_suffix(".count")
        status = os.waitpid(self.begin(folder, threads, size, fault, counted, members), 0)[1]
        if status not in (0, signal.SIGKILL):
            raise RuntimeError(f"a worker ended with {status} in {folder}: {counted.read_text()}")
        return int(counted.read_text()) if status == 0 else None

    def begin(
        self,
        folder: Path,
        threads: int,
        size: int | None,
        fault: Fault,
        counted: Path,
        members: tuple[str, ...] | None = None,
    ) -> int:
        """Start such a worker; its process."""
        folder.mkdir(parents=True, exist_ok=True)
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.alarm(SECONDS)
            torch.set_num_threads(threads)
            worker, number = Worker(Events(io.StringIO())), 0

            def reached(name: str) -> None:
                nonlocal number
                number += 1
                fault(number, worker)

            arm(reached)
            self._carry_out(folder, worker, size, members)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            counted.write_text(str(number))
            os._exit(0)
        except BaseException as error:
            counted.write_text(repr(error))
            os._exit(3)

    def _carry_out(
        self,
        folder: Path,
        worker: Worker | None = None,
        size: int | None = None,
        members: tuple[str, ...] | None = None,
    ) -> None:
        worker = worker or Worker(Events(io.StringIO()))
        worker._loader = self.loader
        for pack in self._packs(folder, size or len(self.specs), members):
            if not worker.stopping:
                runs = [
                    PlannedRun(run_id, spec, written(self.path(folder, run_id))) for spec, run_id in pack.runs
                ]
                order = PlannedPack(tuple(runs), pack.members).order()
                worker.carry_out(order | {"root": str(folder), "checkpoint": {"seconds": 1e9, "steps": 2}})
        packs.tidy(folder / self.specs[0].study)

    def _packs(self, folder: Path, size: int, members: tuple[str, ...] | None = None) -> list[packs.Pack]:
        specs = dict(zip(self.run_ids, self.specs, strict=True))
        if members is not None:
            return [packs.Pack.of(tuple((specs[run_id], run_id) for run_id in members))]
        todo = tuple((specs[run_id], run_id) for run_id in self._left(folder))
        return packs.form(todo, folder / self.specs[0].study, size=size)

    def _left(self, folder: Path) -> list[str]:
        """The runs that have not ended."""
        records = {run_id: read(self.path(folder, run_id)) for run_id in self.run_ids}
        return [name for name, found in records.items() if found is None or found["status"] not in FINISHED]

    def inject(self, kind: str, folder: Path, draw: random.Random) -> int:
        """Disturb what runs in `folder`, then have it done as the same command would.

        Returns:
            How many faults were put into it.
        """
        at, study = draw.randint(1, self.boundaries), folder / self.specs[0].study
        injected = 1
        if kind == "late":
            self._late(folder, at, draw)
        elif kind == "result":
            self.attempt(folder, *self._drawn(draw))
            _damage_result(study / draw.choice(self.run_ids), draw)
        else:
            make = {"stop": _stop, "disk": _fill}.get(kind, _kill)
            self.attempt(folder, *self._drawn(draw), fault=make(at))
            if kind == "checkpoint":
                injected += _damage_checkpoints(study, draw)
            elif kind == "history":
                injected += _damage_history(study / draw.choice(self.run_ids), draw)
        if draw.random() < 0.5:  # and once more on the way
            left = self._left(folder)
            fault = _kill(draw.randint(1, self.boundaries))
            injected += self.attempt(folder, *self._drawn(draw), fault=fault) is None and bool(left)
        self.finish(folder, draw)
        return injected

    def _drawn(self, draw: random.Random) -> tuple[int, int]:
        """Threads, and the most runs that train together: mostly all."""
        whole = len(self.specs)
        return draw.choice((1, 2)), draw.choice((whole, whole, whole, draw.randint(1, whole)))

    def finish(self, folder: Path, draw: random.Random) -> None:
        """Give the runs to workers until all have ended; as a command does, quarantine damaged ones first."""
        study = folder / self.specs[0].study
        for _ in range(4):
            check = IntegrityCheck(study)
            found = {run_id: check.status(run_id) for run_id in self.run_ids}
            damaged = {run_id: problems for run_id, (_, problems) in found.items() if problems}
            if not damaged and all(status in FINISHED for status, _ in found.values()):
                return
            quarantine_damaged(study, damaged)
            self.attempt(folder, *self._drawn(draw))

    def _late(self, folder: Path, at: int, draw: random.Random) -> None:
        """A worker sleeps past its lease; another ends the runs; then the first one wakes up."""

        def sleep(number: int, worker: Worker) -> None:
            if number == at:
                os.kill(os.getpid(), signal.SIGSTOP)

        counted = folder.with_suffix(".late")
        pid = self.begin(folder, *self._drawn(draw), sleep, counted)
        _, status = os.waitpid(pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            return  # it had ended before
        for lease in leases(folder / self.specs[0].study).glob("*"):
            os.utime(lease, (time.time() - 1000,) * 2)
        self.finish(folder, draw)
        os.kill(pid, signal.SIGCONT)
        if os.waitpid(pid, 0)[1] != 0:
            raise RuntimeError(f"the late worker failed: {counted.read_text()}")

    def path(self, folder: Path, run_id: str) -> Path:
        """Where a run of an attempt is."""
        return folder / self.specs[0].study / run_id

    def lasting(self, folder: Path, run_id: str) -> dict[str, bytes]:
        """The files that a run leaves, and its metrics."""
        run = RunFolder(self.path(folder, run_id))
        paths = [run.history, run.predictions, *sorted(run.adapter.glob("*"))]
        files = {path.name: path.read_bytes() for path in paths if path.is_file()}
        return files | {"metrics": json.dumps((read(run.path) or {}).get("metrics"), sort_keys=True).encode()}

    def verdict(self, folder: Path) -> str | None:
        """What is wrong with runs that were disturbed: lost, doubled or differing; None if nothing is."""
        verdicts = (self._verdict(folder, run_id) for run_id in self.run_ids)
        return next((verdict for verdict in verdicts if verdict), None)

    def _verdict(self, folder: Path, run_id: str) -> str | None:
        path = self.path(folder, run_id)
        found = read(path)
        if found is None or found["status"] != "completed":
            return "lost"
        files = self.lasting(folder, run_id)
        try:
            rows = [json.loads(line) for line in files["history.jsonl"].splitlines()]
        except ValueError:
            return "differing"
        steps = [row["step"] for row in rows if "loss" in row]
        if steps != list(range(1, STEPS + 1)) or [p.name for p in path.glob("record*.json")] != [
            "record.json"
        ]:
            return "doubled"
        members = tuple(found.get("pack", {"runs": [run_id]})["runs"])
        if files != self.expected(members, found["env"]["threads"])[run_id] or found["deviations"]:
            return "differing"
        return None


def _kill(at: int) -> Fault:
    return lambda number, worker: os.kill(os.getpid(), signal.SIGKILL) if number == at else None


def _stop(at: int) -> Fault:
    return lambda number, worker: worker.stop() if number == at else None


def _fill(at: int) -> Fault:
    """From the boundary on no file takes more than 600 bytes."""
    limit = (600, resource.RLIM_INFINITY)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    return lambda number, worker: resource.setrlimit(resource.RLIMIT_FSIZE, limit) if number == at else None


def _damage_checkpoints(study: Path, draw: random.Random) -> int:
    """Damage the newest checkpoint, or all: torn, or complete and of no use."""
    found = sorted([*study.glob("*/checkpoint/step-*.pt"), *study.glob(f"{packs.FOLDER}/*/step-*.pt")])
    damaged = found[-draw.choice((1, 2)) :]
    for path in damaged:
        content = path.read_bytes()
        torn = draw.choice((content[: draw.randrange(len(content))], _flipped(content, draw)))
        other: Mapping[str, Any] = torch.load(path, weights_only=True) | {"trainer": {"step": 3}}
        buffer = io.BytesIO()
        torch.save(other, buffer)
        useless = draw.choice((pickle.dumps({"from": "elsewhere"}), buffer.getvalue()))
        if draw.random() < 0.5:
            path.write_bytes(torn)
            continue
        path.unlink()
        name = f"{path.name.split('.')[0]}.{hashlib.sha256(useless).hexdigest()}.pt"
        path.with_name(name).write_bytes(useless)
    return len(damaged)


def _damage_history(run: Path, draw: random.Random) -> int:
    path = run / "history.jsonl"
    content = path.read_bytes() if path.exists() else b""
    if content:
        cut = content[: draw.randrange(len(content))]
        path.write_bytes(draw.choice((cut, _flipped(content, draw), content + content[:40])))
    return bool(content)


def _damage_result(run: Path, draw: random.Random) -> None:
    """Edit a finished run's record, or change one of its files."""
    files = RunFolder(run)
    paths = [files.record, files.predictions, files.history, *files.adapter.glob("*.safetensors")]
    path = draw.choice(paths)
    if path == files.record:
        content = json.loads(path.read_text())
        key = draw.choice(sorted(content["metrics"]))
        content["metrics"][key] += 0.01
        path.write_text(json.dumps(content))
    else:
        path.write_bytes(_flipped(path.read_bytes(), draw))


def _flipped(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
