"""One spec to one record: what happens when memory runs out, and where a kill may fall."""

import json

import pytest
import torch

from experiments.training import checkpoint
from experiments.training import execute as execution
from experiments.training.execute import Interrupted
from experiments.training.loader import Loader
from experiments.training.loop import Trainer
from experiments.training.memory import is_out_of_memory
from experiments.training.run_state import Run


def history(run):
    return [json.loads(line) for line in run.folder.history.read_text().splitlines()]


def test_after_running_out_of_memory_a_run_goes_on_with_half_the_rows_and_the_same_gradient(
    run_of, monkeypatch, execute
):
    whole = run_of("whole", dropout=0.0)
    execute([whole])
    forward_backward = Trainer._forward_backward

    def small_memory(self, step):
        if (self.train.micro_batch_size or self.train.batch_size) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward_backward(self, step)

    monkeypatch.setattr(Trainer, "_forward_backward", small_memory)
    run = run_of("small", dropout=0.0)
    for _ in range(3):
        try:
            [record] = execute([run])
            break
        except torch.OutOfMemoryError as error:
            assert is_out_of_memory(error)
            assert run.halve()
    assert record["status"] == "completed"
    assert len(record["deviations"]) == 2
    assert "micro_batch_size" not in record["spec"]["train"]
    ours = [row["loss"] for row in history(run) if "loss" in row]
    assert ours == pytest.approx([row["loss"] for row in history(whole) if "loss" in row], abs=1e-5)


@pytest.mark.parametrize("limit", [7, 1])
def test_an_evaluation_that_runs_out_of_memory_is_halved_and_training_is_not(
    run_of, monkeypatch, limit, execute
):
    whole = run_of("whole")
    execute([whole])
    trained, evaluated, forward = [], [], torch.nn.Embedding.forward

    def small_memory(self, ids):
        if ids.shape[0] > limit and not torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")
        (trained if torch.is_grad_enabled() else evaluated).append(ids.shape[0])
        return forward(self, ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", small_memory)
    run = run_of("small")
    [record] = execute([run])
    assert record["status"] == "completed"
    halvings = {7: (64, 32, 16, 8), 1: (64, 32, 16, 8, 4, 2)}[limit]
    told = [text.split(" rows")[0] for text in record["deviations"]]
    assert told == [f"out of memory evaluating {rows}" for rows in halvings]
    assert max(evaluated) <= limit and 8 in trained
    assert run.micro_batch_size is None
    for ours, theirs in zip(history(run), history(whole), strict=True):
        for key in ours.keys() & {"loss", "grad_norm", "validation/loss"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5)


def test_an_evaluation_of_one_row_that_runs_out_of_memory_ends_the_attempt(run_of, monkeypatch, execute):
    def none(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(execution, "evaluate", none)
    run = run_of("run", train={"eval_batch_size": 3})
    with pytest.raises(torch.OutOfMemoryError):
        execute([run])
    assert len(run.deviations) == 1 and "went on with 1;" in run.deviations[0]


@pytest.mark.parametrize("adalora", [False, True], ids=["lora", "adalora"])
@pytest.mark.parametrize("halvings", [1, 2])
def test_with_fewer_rows_at_a_time_every_gradient_is_the_same(
    run_of, monkeypatch, adalora, halvings, execute
):
    """AdaLoRA's penalty counts once a batch, not once a micro-batch. Of 6 rows: 3 and 3, then one by one."""
    seen = []
    forward_backward = Trainer._forward_backward

    def watched(self, step):
        loss = forward_backward(self, step)
        seen.append([t.parameter.grad.clone() for t in self.attached.trained])
        return loss

    monkeypatch.setattr(Trainer, "_forward_backward", watched)
    train = {"batch_size": 6, "steps": 4}
    whole, small = (run_of(name, train=train, dropout=0.0, adalora=adalora) for name in ("whole", "small"))
    execute([whole])
    expected = seen.copy()
    seen.clear()
    for _ in range(halvings):
        assert small.halve()
    assert small.training.train.micro_batch_size == {1: 3, 2: 1}[halvings]
    assert small.training.train.eval_batch_size == int(64 * {1: 3, 2: 1}[halvings] / 6)
    execute([small])
    assert len(seen) == len(expected) == 4
    for ours, theirs in zip(seen, expected, strict=True):
        for mine, one in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, one, rtol=1e-3, atol=1e-6)
    assert all(gradient.abs().max() > 0 for gradient in expected[-1]), "compared away from the start"


def test_departures_survive_an_interruption_and_are_noted_once(run_of, execute):
    run = run_of("run", train={"steps": 6, "log_every": 2})
    assert run.halve()
    stops = iter([False] * 3 + [True])
    with pytest.raises(Interrupted):
        execute([run], should_stop=lambda: next(stops))
    [record] = execute([run_of("run", train={"steps": 6, "log_every": 2})])
    assert len(record["deviations"]) == 1 and "out of memory" in record["deviations"][0]


def test_checkpoints_come_by_steps_and_the_last_two_are_kept(run_of, monkeypatch, execute):
    kept = []
    save = checkpoint.save

    def watched(folder, **facts):
        save(folder, **facts)
        kept.append(sorted(int(path.name[5:13]) for path in folder.glob("*.pt")))

    monkeypatch.setattr(checkpoint, "save", watched)
    run = run_of("run", train={"steps": 12, "log_every": 2})
    execute([run], checkpoint_every=1e9, checkpoint_steps=4)
    assert kept == [[4], [4, 8], [8, 12]]
    assert not run.folder.checkpoint.exists()


def test_who_has_lost_a_run_writes_nothing_more(run_of, execute):
    run = run_of("run", train={"steps": 12, "log_every": 2})
    asked = []
    run.owned = lambda: len(asked) < 3 or bool(asked.append(None))

    def should_stop():
        asked.append(None)
        return False

    with pytest.raises(Interrupted):
        execute([run], should_stop=should_stop, checkpoint_steps=2)
    assert not run.folder.record.exists()
    assert max(row["step"] for row in history(run)) == 2


def test_there_is_an_end_to_halving(run_of):
    run = run_of("one", train={"batch_size": 3})
    assert run.halve()
    assert run.training.train.micro_batch_size == 1
    assert not run.halve()


@pytest.mark.parametrize("phases", [("tune",), ("tune", "confirm")])
def test_a_run_that_tunes_never_meets_the_test_split(run_of, monkeypatch, phases, execute):
    runs = [run_of(phase, phase=phase) for phase in phases]
    read = []
    monkeypatch.setattr(
        execution, "evaluate", lambda *a, real=execution.evaluate, **k: (read.append(a[2]), real(*a, **k))[1]
    )
    tuned, *others = execute(runs)
    assert ("test" in read) == bool(others)
    assert (tuned["status"], tuned["spec"]["phase"]) == ("completed", "tune")
    assert {key.split("/")[0] for key in tuned["metrics"]} == {"validation", "best"}
    assert not runs[0].folder.predictions.exists()
    assert read_record(runs[0])["phase"] == "tune"
    for run, record in zip(runs[1:], others, strict=True):
        assert "test/accuracy" in record["metrics"] and run.folder.predictions.exists()


def read_record(run):
    return json.loads(run.folder.record.read_text())


def test_who_lost_a_run_while_its_model_was_loading_leaves_the_new_holders_files_alone(run_of, execute):
    """It stalled before its first step and wakes up when another has written rows and saved a state."""
    train = {"steps": 6, "log_every": 2}
    run, theirs = run_of("run", train=train), {}
    run.owned = lambda: not theirs
    loader = Loader()

    def files():
        return {path: path.read_bytes() for path in run.folder.path.rglob("*") if path.is_file()}

    def slow(spec):
        stops = iter([False] * 4 + [True])
        with pytest.raises(Interrupted):
            execute([run_of("run", train=train)], should_stop=lambda: next(stops))
        theirs.update(files())
        return loader(spec)

    with pytest.raises(Interrupted):
        execute([run], loader=slow)
    assert run.folder.history in theirs and files() == theirs


def test_who_lost_a_run_before_it_began_touches_nothing(run_of, execute):
    run = run_of("run")
    run.owned = lambda: False
    run.folder.write_record({"run_id": "run", "study": "toy", "spec": {}, "status": "failed"})
    with pytest.raises(Interrupted):
        execute([run])
    assert read_record(run)["status"] == "failed" and not run.folder.spec.exists()


@pytest.mark.parametrize("at", [2, 5], ids=["on the way", "after the last row"])
def test_a_run_whose_history_was_replaced_under_it_is_done_again_and_never_recorded_empty(
    run_of, monkeypatch, at, execute
):
    """Else later rows would go to a file without a name, and the checksum be that of an empty one."""
    train = {"steps": 5, "log_every": 1, "evaluations": 1}
    run = run_of("run", train=train)
    validated = Run.validated

    def replace():
        run.folder.history.rename(run.folder.path / "old")
        run.folder.history.touch()

    def stop():
        if at < 5 and run.folder.history.exists() and len(history(run)) == at:
            replace()
        return False

    def last(self, *a, **k):
        validated(self, *a, **k)
        if at == 5:
            replace()

    monkeypatch.setattr(Run, "validated", last)
    with pytest.raises(Interrupted):
        execute([run], should_stop=stop)
    assert not run.folder.record.exists()
    monkeypatch.setattr(Run, "validated", validated)
    [record] = execute([run_of("run", train=train)])
    assert record["status"] == "completed"
    assert [row["step"] for row in history(run) if "loss" in row] == [1, 2, 3, 4, 5]
