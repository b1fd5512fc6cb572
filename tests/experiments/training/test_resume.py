"""What a run goes on from: the checkpoint that fits it, with the threads and the code that made it."""

import hashlib
import io
import pickle
from dataclasses import replace

import pytest
import torch

from experiments import record
from experiments.record import RunFolder
from experiments.tracking import make
from experiments.training import checkpoint, run_state
from experiments.training.execute import Interrupted, execute
from experiments.training.loader import Loader
from experiments.training.run_state import Run

STEPS = 6


class Watched:
    """A display that keeps what it is told."""

    def __init__(self):
        self.notes = []

    def run_started(self, run_id, steps, done=0): ...
    def step(self, run_id, step, loss): ...
    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def loader():
    return Loader()


@pytest.fixture
def run_of(tmp_path, toy_spec):
    """`run_of("name")`: a run on a small table, in a folder of its own; given again, the same run again."""

    def made(name, *, full=False, threads=None, controller="none", delta="lora"):
        options, axes = {"dropout": 0.1}, {"delta": delta, "controller": controller}
        if controller != "none":
            options |= {"init_r_ratio": 1.5, "orth_weight": 0.5, "t_init": 1, "t_final": 1, "interval": 1}
        train = {"steps": STEPS, "batch_size": 6, "eval_batch_size": 12, "evaluations": 2, "log_every": 1}
        spec = toy_spec(axes=axes, options=options, alpha=2.0, train={**train, "threads": threads})
        if full:
            spec = replace(spec, method="full", r=None, alpha=None, targets=None, options={}, lr=1e-3)
        return Run(spec, name, RunFolder(tmp_path / "toy" / name), make({"name": "none"}, notify=print))

    return made


def stopped(run, loader, *, after=4, **how):
    """Leave a run after so many steps, with a checkpoint at each of them."""
    answers = iter([False] * after + [True])
    with pytest.raises(Interrupted):
        execute(
            [run],
            display=Watched(),
            should_stop=lambda: next(answers),
            checkpoint_steps=1,
            loader=loader,
            **how,
        )
    return sorted(run.folder.checkpoint.glob("step-*.pt"))


def finished(run, loader, **how):
    """Run to the end: the record, what was shown, and the lasting files."""
    display = Watched()
    [found] = execute([run], display=display, loader=loader, **how)
    names = [
        "history.jsonl",
        "predictions.parquet",
        *(f"adapter/{p.name}" for p in run.folder.adapter.iterdir()),
    ]
    return found, display.notes, {name: (run.folder.path / name).read_bytes() for name in names}


def rewritten(path, content):
    """Put other content into a checkpoint, under the name that its checksum gives."""
    step = path.name.split(".")[0]
    path.unlink()
    path.with_name(f"{step}.{hashlib.sha256(content).hexdigest()}.pt").write_bytes(content)


def saved(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


class Foreign:
    """Something that a checkpoint of ours never holds."""


def renamed(state):
    state["trainer"]["optimizer"] = state["trainer"].pop("optimiser")
    return saved(state)


def of_another_rank(state):
    flats = state["trainer"]["optimiser"]["flats"]
    state["trainer"]["optimiser"]["flats"] = [tuple(t[:, :-3] for t in flat) for flat in flats]
    return saved(state)


def without_deviations(state):
    del state["deviations"]
    return saved(state)


def of_a_namesake(state):
    return saved({**state, "runs": ["another"]})


DAMAGE = {
    "foreign pickle": (lambda state: pickle.dumps({"weights": Foreign()}), ""),
    "a list": (lambda state: saved([1, 2]), ""),
    "no pickle": (lambda state: b"PK\x03\x04 and no more", ""),
    "other keys": (renamed, "optimiser"),
    "other shapes": (of_another_rank, "another model or method"),
    "keys missing": (without_deviations, "lacks"),
    "another run": (of_a_namesake, "another run"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_checkpoints_that_cannot_be_used_are_set_aside_and_the_run_says_so(run_of, loader, what):
    damage, reason = DAMAGE[what]
    _, _, plain = finished(run_of("plain"), loader)
    files = stopped(run_of("run"), loader)
    assert len(files) == 2
    for path in files:
        rewritten(path, damage(torch.load(path, weights_only=True)))
    run = run_of("run")
    found, notes, files = finished(run, loader)
    assert files == plain
    assert len(notes) == 2 and all("set aside" in note and reason in note for note in notes)
    assert [note for note in found["notes"] if "set aside" in note] == notes
    lines = run.folder.log.read_text().splitlines()
    assert [line for line in lines if "starts at step" in line][-1].endswith("starts at step 0 of 6")
    assert notes[0] in run.folder.log.read_text() and found["deviations"] == []


def test_the_one_before_an_unusable_checkpoint_is_gone_on_from(run_of, loader):
    _, _, plain = finished(run_of("plain"), loader)
    _, newest = stopped(run_of("run"), loader)
    rewritten(newest, b"torn")
    run = run_of("run")
    _, notes, files = finished(run, loader)
    assert files == plain and len(notes) == 1
    assert "starts at step 3 of 6" in run.folder.log.read_text()


def test_a_state_that_fails_half_way_leaves_the_start_as_it_was(run_of, loader):
    """The optimiser's part is good and is loaded first; the controller's has its keys and no more."""
    budget = {"controller": "adalora_budget", "delta": "adalora"}
    _, _, plain = finished(run_of("plain", **budget), loader)
    for path in stopped(run_of("run", **budget), loader):
        state = torch.load(path, weights_only=True)
        for controller in state["trainer"]["controllers"]:
            controller["mean"] = torch.zeros(1, 2, 3, 5)
        rewritten(path, saved(state))
    _, notes, files = finished(run_of("run", **budget), loader)
    assert len(notes) == 2 and files == plain


def test_memory_that_runs_out_speaks_against_no_checkpoint(run_of, loader, monkeypatch):
    kept = stopped(run_of("run"), loader)
    monkeypatch.setattr(torch, "load", lambda *a, **k: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        execute([run_of("run")], display=Watched(), loader=loader)
    assert sorted((run_of("run").folder.checkpoint).glob("step-*.pt")) == kept


# --- threads


@pytest.fixture
def threads():
    """Set how many threads torch has; what was before comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def cores(monkeypatch):
    """Pretend that a process may use so many cores."""
    import os

    return lambda number: monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(number)))


def test_a_resume_computes_with_the_threads_of_the_checkpoint(run_of, loader, threads, cores):
    """Of a method whose bits depend on them: each thread sums its part of a norm's gradient."""
    cores(2)
    full = {"full": True}
    plain = {}
    for number in (1, 2):
        threads(number)
        plain[number] = finished(run_of(f"plain-{number}", **full), loader)[2]
    assert plain[1]["history.jsonl"] != plain[2]["history.jsonl"], "the test could not tell"
    threads(1)
    stopped(run_of("run", **full), loader)
    threads(2)
    found, _, files = finished(run_of("run", **full), loader)
    assert files == plain[1] and found["env"]["threads"] == 1 and found["deviations"] == []
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("how", "used"),
    [({"fixed": 3}, 3), ({"cores": 1}, 2), ({"spec": 5}, 5), ({"cores": 4}, 4), ({"fixed": 3, "spec": 5}, 5)],
    ids=["fixed by the user", "too few cores", "in the spec", "kept", "the spec before the user"],
)
def test_other_threads_than_the_checkpoints_are_a_deviation(run_of, loader, threads, cores, how, used):
    threads(4)
    cores(8)
    stopped(run_of("run"), loader)
    threads(2)
    cores(how.get("cores", 8))
    found, _, _ = finished(run_of("run", threads=how.get("spec")), loader, threads=how.get("fixed"))
    assert found["env"]["threads"] == used
    expected = (
        []
        if used == 4
        else [f"went on after step 4 with {used} threads instead of 4, whose sums round otherwise"]
    )
    assert found["deviations"] == expected


def test_a_checkpoint_without_a_count_of_threads_is_gone_on_from(run_of, loader, threads):
    """As older code wrote them."""
    for path in stopped(run_of("run"), loader):
        state = torch.load(path, weights_only=True)
        del state["threads"], state["runs"]
        rewritten(path, saved(state))
    threads(2)
    run = run_of("run")
    found, notes, _ = finished(run, loader)
    assert (notes, found["deviations"], found["env"]["threads"]) == ([], [], 2)
    assert "starts at step 4 of 6" in run.folder.log.read_text()


# --- code


def test_a_resume_on_other_code_is_a_deviation(run_of, loader, monkeypatch):
    stopped(run_of("run"), loader)
    monkeypatch.setattr(run_state, "_code", lambda: "another hash")
    found, _, _ = finished(run_of("run"), loader)
    assert found["deviations"] == ["went on after step 4 with other code than it began with"]


# --- who lost the run while it wrote


def files_of(run):
    return {path: path.read_bytes() for path in run.folder.path.rglob("*") if path.is_file()}


WRITERS = {
    "predictions": ("pyarrow.parquet.write_table", "predictions.parquet"),
    "signatures": ("numpy.savez", "signatures.npz"),
    "trained": ("experiments.training.execute.write_peft", "adapter/adapter_model.safetensors"),
    "record": ("experiments.record.sha256", "record.json"),
    "state": ("torch.save", "checkpoint"),
}


@pytest.mark.parametrize("what", WRITERS)
def test_who_loses_a_run_while_writing_a_file_leaves_the_one_of_the_new_holder(
    run_of, loader, monkeypatch, what
):
    """The process sleeps in the midst of writing; when it wakes up another has ended the run."""
    target, name = WRITERS[what]
    run, lost = run_of("run"), []
    run.owned = lambda: not lost
    module, _, function = target.rpartition(".")
    real = getattr(__import__(module, fromlist=[function]), function)

    def slow(*arguments, **how):
        result = real(*arguments, **how)
        if not lost:
            lost.append(None)
            monkeypatch.undo()
            finished(run_of("run"), loader)
            lost.append(files_of(run))
        return result

    monkeypatch.setattr(target, slow)
    with pytest.raises(Interrupted):
        execute([run], display=Watched(), loader=loader, checkpoint_steps=2)
    assert len(lost) == 2 and (run.folder.path / name).exists() is (what != "state")
    assert files_of(run) == lost[1]
    assert record.verify(run.folder.path) == []


def test_who_loses_a_run_and_then_fails_writes_no_record(run_of, loader, monkeypatch):
    from experiments.training.result import fail

    run = run_of("run")
    run.begin()
    run.owned = lambda: False
    assert fail(run, ValueError("too late")) is None
    assert not run.folder.record.exists() and not run.folder.log.exists()


def test_checkpoints_are_kept_two_at_a_time(tmp_path):
    for step in (3, 1, 7):
        checkpoint.save(tmp_path, step=step, state={"step": step})
    state, notes = checkpoint.load(tmp_path, lambda state: None)
    assert state == {"step": 7} and notes == []
    assert len(list(tmp_path.iterdir())) == 2
