"""Faults put into real runs: a tiny model, workers in processes of their own, results judged by their bytes.

A worker reaches *boundaries*: both sides of each rename, link, unlink, fsync and optimiser step, and the
middle and the end of each line of the history. A fault happens at one of them, drawn at random; then the run
is given to new workers, as the same command would, until it has ended. How many threads each worker starts
with is drawn, too, as it changes between commands with the number of runs that are left.
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
from experiments.record import FINISHED, RunFolder, read
from experiments.spec import RunSpec
from experiments.sweep.integrity import IntegrityCheck, quarantine_damaged
from experiments.sweep.lease import leases
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


def specs(folder: Path, variants: list[str]) -> dict[str, RunSpec]:
    """A small run of each variant, on a model and a table that are written to `folder`."""
    _model(folder / "model")
    rows = (f"{'good' if i % 3 else 'bad'} {i},{'yes' if i % 3 else 'no'}" for i in range(90))
    (folder / "toy.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    words = [
        "model=hf", f"model.path={folder / 'model'}", "dataset=csv", f"dataset.path={folder / 'toy.csv'}",
        "dataset.text=text", "dataset.label=label", "dataset.max_length=16", f"train.steps={STEPS}",
        "train.batch_size=8", "train.log_every=2", "train.evaluations=2", "study=toy",
    ]  # fmt: skip
    return {name: specs_of(f"variant={name}", "r=2", *words)[0] for name in variants}


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
    """Runs of one variant, each in a folder of its own below `root`."""

    root: Path
    spec: RunSpec
    boundaries: int = 0
    run_id: str = ""
    undisturbed: dict[int, dict[str, bytes]] = field(default_factory=dict)  # by the number of threads

    def __post_init__(self) -> None:
        self.run_id = self.spec.run_id(data.fingerprint(self.spec))
        self.loader = Loader()
        self._carry_out(self.root / "first")  # here: attempts are forks of a process that has all it needs
        for threads in (1, 2):
            folder = self.root / f"undisturbed-{threads}"
            self.boundaries = self.attempt(folder, threads) or 0
            self.undisturbed[threads] = self.lasting(folder)
            if self.verdict(folder) is not None:
                raise RuntimeError(f"an undisturbed run failed: {read(self.path(folder))}")

    def attempt(self, folder: Path, threads: int, fault: Fault = lambda number, worker: None) -> int | None:
        """Give the run to a new worker; the number of boundaries that it reached, None if it was killed."""
        counted = folder.with_suffix(".count")
        status = os.waitpid(self.begin(folder, threads, fault, counted), 0)[1]
        if status not in (0, signal.SIGKILL):
            raise RuntimeError(f"a worker ended with {status} in {folder}")
        return int(counted.read_text()) if status == 0 else None

    def begin(self, folder: Path, threads: int, fault: Fault, counted: Path) -> int:
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
            self._carry_out(folder, worker)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            counted.write_text(str(number))
            os._exit(0)
        except BaseException as error:
            counted.write_text(repr(error))
            os._exit(3)

    def _carry_out(self, folder: Path, worker: Worker | None = None) -> None:
        worker = worker or Worker(Events(io.StringIO()))
        worker._loader = self.loader
        order = {"run": self.spec.as_record(), "run_id": self.run_id, "root": str(folder)}
        worker.carry_out(order | {"checkpoint": {"seconds": 1e9, "steps": 2}})

    def inject(self, kind: str, folder: Path, draw: random.Random) -> int:
        """Disturb a run in `folder`, then have it done as the same command would.

        Returns:
            How many faults were put into it.
        """
        at = draw.randint(1, self.boundaries)
        injected = 1
        if kind == "late":
            self._late(folder, at, draw)
        elif kind == "result":
            self.attempt(folder, draw.choice((1, 2)))
            _damage_result(self.path(folder), draw)
        else:
            fault = {"stop": _stop, "disk": _fill}.get(kind, _kill)
            self.attempt(folder, draw.choice((1, 2)), fault(at))
            if kind == "checkpoint":
                injected += _damage_checkpoints(self.path(folder), draw)
            elif kind == "history":
                injected += _damage_history(self.path(folder), draw)
        if draw.random() < 0.5:  # and once more on the way
            before = read(self.path(folder))
            killed = (
                self.attempt(folder, draw.choice((1, 2)), _kill(draw.randint(1, self.boundaries))) is None
            )
            injected += killed and before is None
        self.finish(folder, draw)
        return injected

    def finish(self, folder: Path, draw: random.Random) -> None:
        """Give the run to workers until it has ended; as a command does, quarantine what is damaged first."""
        study = self.path(folder).parent
        for _ in range(4):
            status, problems = IntegrityCheck(study).status(self.run_id)
            if status in FINISHED and not problems:
                return
            quarantine_damaged(study, {self.run_id: problems} if problems else {})
            self.attempt(folder, draw.choice((1, 2)))

    def _late(self, folder: Path, at: int, draw: random.Random) -> None:
        """A worker sleeps past its lease; another ends the run; then the first one wakes up."""

        def sleep(number: int, worker: Worker) -> None:
            if number == at:
                os.kill(os.getpid(), signal.SIGSTOP)

        counted = folder.with_suffix(".late")
        pid = self.begin(folder, draw.choice((1, 2)), sleep, counted)
        _, status = os.waitpid(pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            return  # it had ended before
        for lease in leases(self.path(folder).parent).glob("*"):
            os.utime(lease, (time.time() - 1000,) * 2)
        self.finish(folder, draw)
        os.kill(pid, signal.SIGCONT)
        if os.waitpid(pid, 0)[1] != 0:
            raise RuntimeError(f"the late worker failed: {counted.read_text()}")

    def path(self, folder: Path) -> Path:
        """Where the run of an attempt is."""
        return folder / self.spec.study / self.run_id

    def lasting(self, folder: Path) -> dict[str, bytes]:
        """The files that the run leaves, and its metrics."""
        run = RunFolder(self.path(folder))
        paths = [run.history, run.predictions, *sorted(run.adapter.glob("*"))]
        files = {path.name: path.read_bytes() for path in paths if path.is_file()}
        return files | {"metrics": json.dumps((read(run.path) or {}).get("metrics"), sort_keys=True).encode()}

    def verdict(self, folder: Path) -> str | None:
        """What is wrong with a run that was disturbed: lost, doubled or differing; None if nothing is."""
        found = read(self.path(folder))
        if found is None or found["status"] != "completed":
            return "lost"
        files = self.lasting(folder)
        rows = [json.loads(line) for line in files["history.jsonl"].splitlines()]
        steps = [row["step"] for row in rows if "loss" in row]
        if steps != list(range(1, STEPS + 1)) or [p.name for p in self.path(folder).glob("record*.json")] != [
            "record.json"
        ]:
            return "doubled"
        if files != self.undisturbed[found["env"]["threads"]] or found["deviations"]:
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


def _damage_checkpoints(run: Path, draw: random.Random) -> int:
    """Damage the newest checkpoint, or all: torn, or complete and of no use."""
    found = sorted(run.glob("checkpoint/step-*.pt"))
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
