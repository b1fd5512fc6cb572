"""One spec to one record: what happens when memory runs out, and where a kill may fall."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments import execute as execution
from experiments.execute import execute
from experiments.outcome import is_out_of_memory
from experiments.pack import Run
from experiments.record import RunFolder, read, verify
from experiments.spec import RunSpec, Train
from experiments.trackers import make
from experiments.train import Trainer

AXES = {
    "delta": "lora",
    "scaling": "alpha_over_r",
    "storage": "fp32",
    "grouping": "uniform",
    "controller": "none",
}


class Quiet:
    """A display that shows nothing."""

    def run_started(self, run_id, steps, done=0): ...
    def step(self, run_id, step, loss): ...


@pytest.fixture
def run_of(tmp_path, tiny_bert):
    """A run on a small table, in a folder of its own: `run_of("name", train={...})`."""
    rows = "\n".join(f"{'good' if i % 3 else 'bad'} {i},{'yes' if i % 3 else 'no'}" for i in range(90))
    (tmp_path / "toy.csv").write_text("text,label\n" + rows + "\n")

    def made(name, *, train=None, dropout=0.1, phase="run"):
        spec = RunSpec(
            study="toy", variant="lora", method="adapters", r=2, alpha=4.0, targets="qv", axes=AXES,
            options={"dropout": dropout}, model="hf", model_options={"path": str(tiny_bert)}, dataset="csv",
            dataset_options={
                "path": str(tmp_path / "toy.csv"), "text": "text", "label": "label", "max_length": 16,
            },
            lr=0.02, seed=0, train=Train(**{"steps": 12, "batch_size": 8, "head_lr": 0.02, **(train or {})}),
            phase=phase,
        )  # fmt: skip
        return Run(spec, name, RunFolder(tmp_path / name), make({"name": "none"}))

    return made


def history(run):
    return [json.loads(line) for line in run.folder.history.read_text().splitlines()]


def test_after_running_out_of_memory_a_run_goes_on_with_half_the_rows_and_the_same_gradient(
    run_of, monkeypatch
):
    whole = run_of("whole", dropout=0.0)
    execute([whole], display=Quiet())
    forward_backward = Trainer._forward_backward

    def small_memory(self, step):
        if (self.train.micro_batch_size or self.train.batch_size) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward_backward(self, step)

    monkeypatch.setattr(Trainer, "_forward_backward", small_memory)
    run = run_of("small", dropout=0.0)
    for _ in range(3):
        try:
            [record] = execute([run], display=Quiet())
            break
        except torch.OutOfMemoryError as error:
            assert is_out_of_memory(error)
            assert run.halve()
    assert record["status"] == "completed"
    assert len(record["deviations"]) == 2
    assert "micro_batch_size" not in record["spec"]["train"]
    ours = [row["loss"] for row in history(run) if "loss" in row]
    assert ours == pytest.approx([row["loss"] for row in history(whole) if "loss" in row], abs=1e-5)


def test_there_is_an_end_to_halving(run_of):
    run = run_of("one", train={"batch_size": 3})
    assert run.halve()
    assert run.training.train.micro_batch_size == 1
    assert not run.halve()


@pytest.mark.parametrize("phases", [("tune",), ("tune", "confirm")])
def test_a_run_that_tunes_never_meets_the_test_split(run_of, monkeypatch, phases):
    runs = [run_of(phase, phase=phase) for phase in phases]
    read = []
    monkeypatch.setattr(
        execution, "evaluate", lambda *a, real=execution.evaluate, **k: (read.append(a[2]), real(*a, **k))[1]
    )
    tuned, *others = execute(runs, display=Quiet())
    assert ("test" in read) == bool(others)
    assert (tuned["status"], tuned["spec"]["phase"]) == ("completed", "tune")
    assert {key.split("/")[0] for key in tuned["metrics"]} == {"validation", "best"}
    assert not runs[0].folder.predictions.exists()
    assert read_record(runs[0])["phase"] == "tune"
    for run, record in zip(runs[1:], others, strict=True):
        assert "test/accuracy" in record["metrics"] and run.folder.predictions.exists()


def read_record(run):
    return json.loads(run.folder.record.read_text())


KILL_AT_WRITE = """
import json, os, signal, sys
from pathlib import Path
from experiments import execute as execution
from experiments.pack import Run
from experiments.record import RunFolder
from experiments.spec import from_record
from experiments.trackers import make

moment, spec, folder = sys.argv[1], from_record(json.loads(Path(sys.argv[2]).read_text())), Path(sys.argv[3])

class Quiet:
    def __getattr__(self, name):
        return lambda *a, **k: None

def attempt(number, folder):
    real = os.replace
    def replace(*paths):
        nonlocal number
        number -= 1
        if number == 0 and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(*paths)
        if number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    os.replace = replace
    run = Run(spec, "run", RunFolder(folder / "run"), make({"name": "none"}))
    execution.execute([run], display=Quiet(), checkpoint_every=0.0)

def child(number, folder):
    pid = os.fork()  # the libraries are imported once; every attempt is a process of its own
    if pid == 0:
        attempt(number, folder)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

execution.prepare(spec)
number = 1
while child(number, folder / str(number)) == signal.SIGKILL:
    assert child(0, folder / str(number)) == 0
    number += 1
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_write_a_run_ends_with_the_same_bits(run_of, tmp_path, moment):
    """A run is killed around the first file that it renames into place, another around its second, ..."""
    plain = run_of("run", train={"steps": 4, "log_every": 2, "evaluations": 2})
    execute([plain], display=Quiet())
    spec, killed = tmp_path / "spec-to-run.json", tmp_path / "killed"
    spec.write_text(json.dumps(plain.spec.as_record()))
    process = subprocess.run(
        [sys.executable, "-c", KILL_AT_WRITE, moment, str(spec), str(killed)],
        capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(execution.__file__).parents[1])},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    folders = [folder / "run" for folder in killed.iterdir()]
    assert len(folders) >= 6, "the kills must have reached the checkpoints, the predictions and the record"
    for folder in folders:
        assert verify(folder) == []
        for file in ("history.jsonl", "predictions.parquet", "adapter/adapter_model.safetensors"):
            assert (folder / file).read_bytes() == (plain.folder.path / file).read_bytes(), (folder, file)
        assert read(folder)["metrics"] == read(plain.folder.path)["metrics"]
