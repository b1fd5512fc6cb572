"""A pack from its specs to its records: those of solo runs, whatever happens to the others on the way."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from experiments.record import verify
from experiments.training import execute as execution
from experiments.training.execute import Interrupted
from experiments.training.loop import Trainer

SAME = ("status", "spec", "primary", "data", "model", "optimiser", "notes", "deviations", "start", "adapter")


@pytest.fixture
def pack_of(run_of):
    """Three unlike runs, one of them shorter: `pack_of("a")` in folders a0, a1, a2."""

    def made(name, *, lr=0.02):
        return [
            run_of(f"{name}0", dropout=0.0, seed=4, lr=lr),
            run_of(f"{name}1", adalora=True, seed=5, train={"steps": 7, "log_every": 3}),
            run_of(f"{name}2", r=3, seed=6, targets="all", alpha=7.0, train={"schedule": "cosine"}),
        ]

    return made


def history(run):
    return [json.loads(line) for line in run.folder.history.read_text().splitlines()]


def contents(runs):
    """Every lasting file of the runs but the records, whose costs differ."""
    return {
        (k, str(path.relative_to(run.folder.path))): path.read_bytes()
        for k, run in enumerate(runs)
        for path in run.folder.path.rglob("*")
        if path.is_file() and path.name not in ("record.json", "log.txt")
    }


def test_each_run_leaves_what_it_leaves_alone(pack_of, execute):
    runs, alone = pack_of("pack"), pack_of("solo")
    records = execute(runs, checkpoint_steps=4)
    for k, (run, solo) in enumerate(zip(runs, alone, strict=True)):
        [expected] = execute([solo])
        record = json.loads(run.folder.record.read_text())
        assert record["metrics"] == records[k]["metrics"]
        assert verify(run.folder.path) == []
        assert {key: records[k].get(key) for key in SAME} == {key: expected.get(key) for key in SAME}
        assert records[k]["metrics"].keys() == expected["metrics"].keys()
        for name, value in expected["metrics"].items():
            assert records[k]["metrics"][name] == pytest.approx(value, abs=1e-5), name
        assert record["pack"]["runs"] == ["pack0", "pack1", "pack2"] and "pack" not in expected
        assert not {"step_ms", "busy_cores"} & record["cost"].keys()
        assert record["pack"]["step_ms"] > 0 and record["pack"]["busy_cores"] > 0
        ours, theirs = (pq.read_table(r.folder.predictions).to_pydict() for r in (run, solo))
        assert ours["prediction"] == theirs["prediction"] and ours["id"] == theirs["id"]
        ours, theirs = (load_file(next(r.folder.adapter.glob("*.safetensors"))) for r in (run, solo))
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in theirs)
        assert [row["step"] for row in history(run)] == [row["step"] for row in history(solo)]
        assert [row.keys() for row in history(run)] == [row.keys() for row in history(solo)]
    shared = sum(record["cost"]["train_seconds"] for record in records)
    assert shared == pytest.approx(3 * records[0]["cost"]["train_seconds"])


def test_an_interrupted_pack_goes_on_to_the_same_bits(pack_of, tmp_path, execute):
    whole, runs = pack_of("whole"), pack_of("run")
    execute(whole)
    stops = iter([False] * 9 + [True])  # the second run has ended
    with pytest.raises(Interrupted):
        execute(runs, should_stop=lambda: next(stops), state=tmp_path / "pack")
    assert len(list((tmp_path / "pack").iterdir())) == 1 and not any(r.folder.record.exists() for r in runs)
    records = execute(pack_of("run"), state=tmp_path / "pack")
    assert [record["status"] for record in records] == ["completed"] * 3
    assert contents(runs) == contents(whole)
    assert not (tmp_path / "pack").exists()


def test_the_state_of_another_pack_is_not_taken(pack_of, tmp_path, execute):
    stops = iter([False] * 3 + [True])
    with pytest.raises(Interrupted):
        execute(pack_of("run"), should_stop=lambda: next(stops), state=tmp_path / "pack")
    first, second, third = pack_of("run")
    execute([second, first, third], state=tmp_path / "pack")
    assert first.folder.log.read_text().count("starts at step 0 of 12") == 2


def test_a_run_that_had_its_record_when_the_rest_was_killed_is_left_as_it_is(
    pack_of, tmp_path, monkeypatch, execute
):
    whole, runs = pack_of("whole"), pack_of("run")
    execute(whole)
    conclude = execution._conclude

    def killed(run, *a):
        conclude(run, *a)
        raise KeyboardInterrupt

    monkeypatch.setattr(execution, "_conclude", killed)
    with pytest.raises(KeyboardInterrupt):
        execute(runs, state=tmp_path / "pack", checkpoint_steps=5)
    monkeypatch.setattr(execution, "_conclude", conclude)
    assert [run.folder.record.exists() for run in runs] == [True, False, False]
    kept = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in runs[0].folder.path.rglob("*.*")}
    again = pack_of("run")
    again[0].ended = True
    records = execute(again, state=tmp_path / "pack")
    assert [record["run_id"] for record in records] == ["run1", "run2"]
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept} == kept
    assert contents(runs) == contents(whole)


def test_a_run_that_diverges_ends_alone_and_nothing_is_evaluated_twice(pack_of, monkeypatch, execute):
    calm, hurt = pack_of("calm"), pack_of("hurt")
    execute(calm)
    forward_backward, evaluated = Trainer._forward_backward, []

    def poisoned(self, step):
        loss = forward_backward(self, step)
        return loss.where(torch.arange(3) != 0, float("nan")) if step == 2 else loss

    real = execution.evaluate
    monkeypatch.setattr(execution, "evaluate", lambda *a, **k: (evaluated.append(a[2]), real(*a, **k))[1])
    monkeypatch.setattr(Trainer, "_forward_backward", poisoned)
    records = execute(hurt)
    assert [record["status"] for record in records] == ["diverged", "completed", "completed"]
    assert records[0]["error"]["message"] == "loss or gradient was not finite at step 3"
    assert not hurt[0].folder.predictions.exists() and verify(hurt[0].folder.path) == []
    assert contents(hurt[1:]) == contents(calm[1:])
    steps = {round(n * i / 3) for n in (7, 12) for i in (1, 2, 3)}
    assert evaluated == ["validation"] * len(steps) + ["test"]
