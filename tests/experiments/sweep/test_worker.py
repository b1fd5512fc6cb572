"""A worker alone: what it says and to whom, and what it gives back before it tries again."""

import gc
import io
import os
import weakref

import pytest

from experiments import execute as execution
from experiments.bench.fake import specs_of
from experiments.record import RunFolder
from experiments.sweep.claim import claim
from experiments.sweep.worker import Events, Worker


def test_a_run_is_not_ended_by_the_death_of_whoever_listened():
    listening, saying = os.pipe()
    os.close(listening)
    with open(saying, "w", encoding="utf-8", closefd=False) as out:
        events = Events(out)
        for step in (1, 2):
            events.step("run", step, loss=0.5)
        os.dup2(os.open(os.devnull, os.O_WRONLY), saying)  # closing writes what is left
    os.close(saying)


class Model:
    """Something that takes memory."""


@pytest.fixture
def without_collector():
    gc.disable()
    yield
    gc.enable()


def test_what_ran_out_of_memory_is_gone_before_the_next_attempt(tmp_path, monkeypatch, without_collector):
    """The trainer and its callbacks refer to each other, so that no count of references frees the model."""
    attempts = []

    def execute(runs, **how):
        assert not [one for one in attempts if one() is not None], "the model of the first attempt is there"
        model = Model()
        model.itself = model
        attempts.append(weakref.ref(model))
        if len(attempts) == 1:
            raise MemoryError
        return [{"status": "completed"}]

    monkeypatch.setattr(execution, "execute", execute)
    [spec] = specs_of("variant=lora", "r=2")
    order = {"run": spec.as_record(), "run_id": "run"}
    held = claim(tmp_path / ".claims", "run")
    found = Worker(Events(io.StringIO()))._execute(order, RunFolder(tmp_path / "run"), held)
    assert found["status"] == "completed" and len(attempts) == 2
