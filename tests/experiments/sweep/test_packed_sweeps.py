"""Packed sweeps as a user starts them: the results, the names and the folders of solo runs."""

import io
import json
import os
import signal
import time
from dataclasses import replace

import pytest

from experiments.bench.fake import specs_of
from experiments.record import RunFolder
from experiments.sweep import packs
from experiments.sweep.lease import acquire, is_held
from experiments.sweep.worker import Events, Worker
from experiments.training import execute as execution

SWEEP = ("variant=lora,dora", "r=2", "seed=0,3", "workers=1", "train.steps=12")
LONG = ("variant=lora,dora", "r=2", "seed=0,3", "workers=1", "train.steps=60", "variant.dropout=0.1")


@pytest.fixture(scope="module")
def alone(module_shell):
    code, output = module_shell.run(*SWEEP, "study=alone", "pack=off")
    assert code == 0, output
    return module_shell.records("alone")


def test_a_packed_sweep_leaves_the_runs_of_a_solo_sweep(module_shell, alone):
    code, output = module_shell.run(*SWEEP, "study=packed", "pack=3")
    assert code == 0, output
    assert "4 runs in 2 packs of 2" in output and "report.html" in output
    records = module_shell.records("packed")
    assert records.keys() == alone.keys()
    for run_id, record in records.items():
        expected = alone[run_id]
        assert len(record["pack"]["runs"]) == 2 and run_id in record["pack"]["runs"]
        assert record["metrics"] == pytest.approx(expected["metrics"], abs=1e-5)
        for same in ("status", "start", "adapter", "notes", "deviations", "data"):
            assert record[same] == expected[same]
        assert "pack" not in record["spec"] and "pack" not in expected
    study = module_shell.folder / "runs/packed"
    assert not list(study.glob(".packs/*")) and not list(study.glob(".claims/*"))
    before = {path: path.stat().st_mtime_ns for path in study.glob("*/record.json")}
    code, output = module_shell.run(*SWEEP, "study=packed", "pack=off")
    assert code == 0 and {path: path.stat().st_mtime_ns for path in before} == before


def test_a_killed_pack_goes_on_from_its_state_to_the_same_bits(module_shell, shell):
    code, output = module_shell.run(*LONG, "study=toy", "pack=4")
    assert code == 0 and "4 runs in 1 pack of 4" in output, output
    process = shell.start(*LONG, "pack=4", "checkpoint_steps=5")
    folder = shell.folder / "runs/toy/.packs"
    deadline = time.monotonic() + 400
    while not list(folder.glob("*/step-*.pt")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 130 and not shell.records()
    [written] = folder.glob("*/pack.json")
    assert sorted(json.loads(written.read_text())["runs"]) == sorted(module_shell.records("toy"))
    code, output = shell.run(*LONG, "pack=2")
    assert code == 0 and "4 runs in 1 pack of 4" in output, output
    whole = module_shell.folder / "runs/toy"
    for run_id, record in shell.records().items():
        assert record["deviations"] == []
        for file in ("history.jsonl", "predictions.parquet"):
            assert (shell.folder / "runs/toy" / run_id / file).read_bytes() == (
                whole / run_id / file
            ).read_bytes()
    assert not list(folder.glob("*"))


@pytest.mark.slow
def test_a_killed_worker_costs_a_pack_the_steps_since_its_last_state(module_shell, shell):
    """To the same bits, and without starting anew."""
    if not (module_shell.folder / "runs/toy").exists():
        code, output = module_shell.run(*LONG, "study=toy", "pack=4")
        assert code == 0, output
    process = shell.start(*LONG, "pack=4", "checkpoint_steps=5")
    study = shell.folder / "runs/toy"
    deadline = time.monotonic() + 400
    while not list(study.glob(".packs/*/step-*.pt")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    claims = [json.loads(path.read_text()) for path in study.glob(".claims/*")]
    [worker] = {claim["pid"] for claim in claims if "pid" in claim}
    assert len(claims) == 4, "every run of the pack is held"
    os.kill(worker, signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "they go on from their last state" in " ".join(output.split()), output
    whole = module_shell.folder / "runs/toy"
    for run_id, record in shell.records().items():
        assert record["deviations"] == [] and record["status"] == "completed"
        starts = [
            line for line in (study / run_id / "log.txt").read_text().splitlines() if "starts at" in line
        ]
        assert "starts at step 0 of 60" in starts[0] and "starts at step 0 of 60" not in starts[1]
        for file in ("history.jsonl", "predictions.parquet"):
            assert (study / run_id / file).read_bytes() == (whole / run_id / file).read_bytes()


@pytest.mark.slow
def test_a_sweep_of_sharded_runs_is_a_sweep(module_shell, alone):
    """From a command to its report; the same runs by name, and to rounding by their results."""
    code, output = module_shell.run("variant=lora", *SWEEP[1:], "study=sharded", "fsdp=2", "pack=auto")
    assert code == 0 and "report.html" in output, output
    records = module_shell.records("sharded")
    assert records and records.keys() == {name for name in alone if name.startswith("lora")}
    for run_id, record in records.items():
        assert record["fsdp"] == 2 and record["metrics"] == pytest.approx(alone[run_id]["metrics"], abs=1e-5)
        assert "with fsdp no process has the whole weights" in record["notes"][-1]


class Trained:
    """Stands for training: keeps which runs were trained together, and fails as it is told."""

    def __init__(self, fault=lambda run_ids: None):
        self.packs, self.fault = [], fault

    def __call__(self, runs, *, state=None, **how):
        run_ids = [run.run_id for run in runs]
        assert not how["should_stop"](), "nobody has taken a run of this pack over"
        study = runs[0].folder.path.parent
        assert all(is_held(study / ".claims", run.run_id) for run in runs if not run.ended)
        self.packs.append(("".join(run_ids), state and json.loads((state / "pack.json").read_text())["runs"]))
        error = self.fault(run_ids)
        if error is not None:
            raise error
        records = []
        for run in (run for run in runs if not run.ended):
            run.begin()
            record = {
                "run_id": run.run_id,
                "study": "toy",
                "spec": run.spec.as_record(),
                "status": "completed",
            }
            run.folder.write_record(record)
            records.append(record)
        return records


@pytest.fixture
def ordered(tmp_path, monkeypatch):
    """Carries out an order for runs a to d: (what was trained together, what the worker said)."""

    def carry_out(trained, members="abcd", **facts):
        monkeypatch.setattr(execution, "execute", trained)
        monkeypatch.setattr("experiments.sweep.worker.check_data", lambda *_: None)  # other names than theirs
        said = io.StringIO()
        runs = [
            {"run": replace(spec, study="toy").as_record(), "run_id": run_id, "seen": None, "kills": 0}
            for run_id, spec in zip("abcd", specs_of("seed=0,1,2,3"), strict=True)
        ]
        often = {"seconds": 60.0, "steps": None}
        order = {"pack": runs, "members": list(members), "root": str(tmp_path), "checkpoint": often}
        Worker(Events(said)).carry_out(order | facts)
        events = [json.loads(line) for line in said.getvalue().splitlines()]
        return trained.packs, [(e["run_id"], e.get("status", e["event"])) for e in events if "run_id" in e]

    return carry_out


def test_what_goes_wrong_with_a_pack_is_tried_in_halves_down_to_the_run_that_fails(ordered, tmp_path):
    trained, said = ordered(Trained(lambda run_ids: RuntimeError("boom") if "c" in run_ids else None))
    assert [names for names, _ in trained] == ["abcd", "ab", "cd", "c", "d"]
    assert said == [("a", "completed"), ("b", "completed"), ("c", "failed"), ("d", "completed")]
    record = json.loads((tmp_path / "toy/c/record.json").read_text())
    assert record["error"]["message"] == "boom" and record["error"]["repeat"].endswith("toy c")
    assert not list((tmp_path / "toy/.packs").iterdir()) and not list((tmp_path / "toy/.claims").iterdir())


def test_out_of_memory_means_smaller_packs_before_fewer_rows(ordered):
    trained, said = ordered(Trained(lambda run_ids: MemoryError() if len(run_ids) > 2 else None))
    assert trained == [("abcd", [*"abcd"]), ("ab", [*"ab"]), ("cd", [*"cd"])]
    assert {status for _, status in said} == {"completed"}


def test_where_memory_ends_packs_shrink_to_single_runs_and_then_their_rows(ordered, tmp_path):
    """Room for four rows of one run at a time; a batch has sixteen."""
    rows = []

    class Rows(Trained):
        def __call__(self, runs, **how):
            train = runs[0].training.train
            rows.append((len(runs), train.micro_batch_size or train.batch_size))
            self.fault = lambda run_ids: MemoryError() if rows[-1] != (1, 4) else None
            return super().__call__(runs, **how)

    _trained, said = ordered(Rows())
    assert rows == [(4, 16), (2, 16), *[(1, 16), (1, 8), (1, 4)] * 2, (2, 16), *[(1, 16), (1, 8), (1, 4)] * 2]
    assert said == [(run_id, "completed") for run_id in "abcd"]


def test_a_run_that_is_taken_over_stops_its_pack_which_writes_no_more(ordered, tmp_path):
    """As after a pause so long that another process thought this one dead."""
    stops = []

    class Robbed(Trained):
        def __call__(self, runs, **how):
            [own] = (tmp_path / "toy/.claims").glob("c.*")
            own.with_name(f"c.{int(own.suffix[1:]) + 1}").touch()
            stops.append(how["should_stop"]())
            raise execution.Interrupted

    _trained, said = ordered(Robbed())
    assert stops == [True] and {status for _, status in said} == {"interrupted"}
    assert not list((tmp_path / "toy").glob("*/record.json"))


def test_a_pack_waits_for_a_run_that_another_process_has(ordered, tmp_path):
    with acquire(tmp_path / "toy/.claims", "c"):
        trained, said = ordered(Trained())
        assert (trained, said) == ([], [("c", "busy")])
        assert not is_held(tmp_path / "toy/.claims", "a")
    assert ordered(Trained())[1] == [(run_id, "completed") for run_id in "abcd"]


@pytest.mark.parametrize("state", [False, True])
def test_runs_that_have_ended_train_along_only_where_a_state_needs_them(ordered, tmp_path, state):
    """The same failing attempt of b is not done again by who planned before it ended."""
    for run_id, spec in zip("ab", specs_of("seed=0,1"), strict=True):
        folder = RunFolder(tmp_path / "toy" / run_id)
        folder.write_spec(spec.as_record())
        folder.write_record(
            {"run_id": run_id, "study": "toy", "spec": spec.as_record(), "status": "diverged"}
        )
    if state:
        folder = packs.folder_of(tmp_path / "toy", "abcd")
        packs.write_down(folder, "abcd")
        (folder / "step-00000003.x.pt").touch()
    trained, said = ordered(Trained())
    assert trained == [("abcd", [*"abcd"]) if state else ("cd", [*"cd"])]
    assert said == [("a", "diverged"), ("b", "diverged"), ("c", "completed"), ("d", "completed")]
