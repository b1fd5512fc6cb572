"""How the engine takes in outcomes: when it goes on, when it stops early, what it counts."""

from types import SimpleNamespace

import pytest

from experiments.config.settings import Terms
from experiments.sweep.engine import _collect
from experiments.sweep.lease import acquire
from experiments.sweep.packs import Pack
from experiments.sweep.pool import Outcome

SPEC = SimpleNamespace(as_record=lambda: {"study": "toy", "variant": "lora"})


class Pretended:
    """A pool whose cells end as told; stopped, it hands out no more."""

    def __init__(self, events):
        self.events, self.stopped, self.waited_for = events, False, []

    def run(self, cells, *, root, terms):
        for cell in (run for pack in cells for run in pack.runs):
            if not self.stopped:
                yield Outcome(cell, self.events[cell.run_id], 1.0)

    def stop(self):
        self.stopped = True

    def wait_for(self, cell):
        self.waited_for.append(cell.run_id)


class Told:
    """A display that keeps what it is told."""

    def __init__(self):
        self.ended, self.notes = {}, []

    def run_finished(self, run_id, status, words):
        self.ended[run_id] = status

    def note(self, text):
        self.notes.append(text)


def failed(run_id, message="no such column", status="failed"):
    return {
        "event": "finished",
        "status": status,
        "error": {"kind": "user", "message": f"{run_id}: {message}"},
    }


def completed(run_id):
    return {"event": "finished", "status": "completed", "metrics": {"test/accuracy": 0.5}}


@pytest.fixture
def collect(tmp_path):
    def run(*kinds, **terms):
        events = {f"cell-{i}": kind(f"cell-{i}") for i, kind in enumerate(kinds)}
        pool, told = Pretended(events), Told()
        packs = [Pack.of(((SPEC, run_id),)) for run_id in events]
        return _collect(pool, packs, tmp_path / "toy", Terms(**terms), told), pool, told

    return run


def test_the_first_runs_failing_the_same_way_stop_the_sweep_and_it_says_why(collect):
    """Alike but for the name of the run in the message."""
    count, pool, told = collect(*[failed] * 6)
    assert (count, pool.stopped, len(told.ended)) == (3, True, 3)
    assert "no such column" in told.notes[-1] and "keep_going=true" in told.notes[-1]


def test_on_request_it_goes_on_all_the_same(collect):
    count, pool, told = collect(*[failed] * 6, keep_going=True)
    assert (count, pool.stopped, len(told.ended)) == (6, False, 6)


@pytest.mark.parametrize(
    "kinds",
    [
        [failed, failed, completed, failed, failed],
        [failed, failed, lambda name: failed(name, "another reason"), failed, failed],
        [completed, failed, failed, failed, failed],
        [failed, failed, failed],
    ],
    ids=["one completed", "reasons differ", "not the first", "no more to come"],
)
def test_it_does_not_stop_early_without_that(collect, kinds):
    count, pool, told = collect(*kinds)
    assert not pool.stopped
    assert len(told.ended) == len(kinds)
    assert count == sum(status == "failed" for status in told.ended.values())


def test_running_out_of_memory_counts_as_failed_and_diverging_does_not(collect):
    diverged = lambda name: {"event": "finished", "status": "diverged"}  # noqa: E731
    count, pool, _ = collect(lambda name: failed(name, status="oom"), diverged, diverged, diverged, diverged)
    assert count == 1 and not pool.stopped


def test_a_dead_worker_s_run_that_another_process_took_is_waited_for(collect, tmp_path):
    with acquire(tmp_path / "toy/.claims", "cell-1"):
        count, pool, told = collect(completed, lambda name: {"event": "died", "code": -9})
    assert (count, pool.waited_for) == (0, ["cell-1"])
    assert list(told.ended) == ["cell-0"]
