"""Step times and the company in which they were measured, with the clocks replaced."""

import numpy as np
import pytest

from experiments import stopwatch
from experiments.stopwatch import Stopwatch, quartiles


def test_the_cores_that_a_process_kept_busy_and_the_load(monkeypatch):
    wall, cpu, load = iter([0.0, 4.0, 10.0, 16.0]), iter([1.0, 3.0, 3.5, 6.5]), iter([3.0, 5.0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(stopwatch.time, "process_time", lambda: next(cpu))
    monkeypatch.setattr(stopwatch.os, "getloadavg", lambda: (next(load), 0.0, 0.0))
    monkeypatch.setattr(stopwatch.os, "cpu_count", lambda: 2)
    watch = Stopwatch()
    for expected in (4.0, 6.0):  # what lies between two stretches does not count
        watch.start()
        assert watch.stop() == expected
    assert watch.facts(on_cpu=True) == {"busy_cores": 0.5, "load_per_core": 2.0}
    assert watch.facts(on_cpu=False)["busy_cores"] is None  # of a process that waits for its GPU


def test_nothing_is_known_before_the_first_stretch():
    assert set(Stopwatch().facts(on_cpu=True).values()) == {None}


@pytest.mark.parametrize("n", [2, 3, 8])
def test_quartiles_leave_out_the_first_interval(n):
    times = [900.0, *np.random.default_rng(n).uniform(1, 9, n)]
    found = quartiles(times)
    assert found["step_ms"] == pytest.approx(np.median(times[1:]))
    assert [found["step_ms_low"], found["step_ms_high"]] == pytest.approx(
        np.quantile(times[1:], [0.25, 0.75])
    )


def test_one_interval_has_no_spread():
    assert quartiles([3.0]) == {"step_ms": 3.0, "step_ms_low": None, "step_ms_high": None}
    assert quartiles([9.0, 3.0])["step_ms"] == 3.0 and quartiles([])["step_ms"] is None
