"""The cells of a study, measured in turn: what is written, and that a slow round harms nobody."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.bench import study
from experiments.bench.fake import conclude
from experiments.errors import UserError
from experiments.record import RunFolder


def test_a_round_that_other_work_slowed_is_divided_out():
    rng = np.random.default_rng(0)
    pace = np.where(rng.random(40) < 0.4, 3.0, 1.0)
    times = {name: ms * pace * rng.uniform(0.99, 1.01, 40) for name, ms in (("a", 10), ("b", 12), ("c", 15))}
    found = study.without_slow_rounds(times)
    for name, ms in (("a", 10), ("b", 12), ("c", 15)):
        low, middle, high = np.quantile(found[name], (0.25, 0.5, 0.75))
        assert middle / np.median(found["b"]) == pytest.approx(ms / 12, rel=0.02)
        assert high / low < 1.03 < np.quantile(times[name], 0.75) / np.quantile(times[name], 0.25)
    assert study.without_slow_rounds({"a": [1.0, 2.0]}) == {"a": [1.0, 2.0]}


def test_a_study_without_a_completed_run_has_nothing_to_measure(tmp_path):
    with pytest.raises(UserError, match=r"no run of .* is completed"):
        study.measure(tmp_path, rounds=3)


def test_every_run_of_a_cell_gets_the_times_of_its_cell(tmp_path, toy_spec, monkeypatch, capsys):
    zero = {"variant": "zero", "method": "zero", "alpha": None, "targets": None, "axes": {"storage": "fp32"}}
    for r, seed, phase in ((2, 0, "run"), (2, 1, "run"), (3, 0, "run"), (3, 7, "tune"), (None, 0, "run")):
        spec = toy_spec(r=r, seed=seed, phase=phase, options={}, train={"batch_size": 4})
        spec = spec if r else replace(spec, lr=0.0, **zero)
        run = RunFolder(tmp_path / f"r{r}-s{seed}-{phase}")
        run.path.mkdir()
        conclude(run, spec.as_record(), history="", metrics={"test/accuracy": 0.5}, phase=phase)
    took = {}

    def in_turn(steps, *, rounds, warmup):
        for _ in range(rounds + warmup):
            for step in steps.values():
                step()
        took.update(steps)
        return {name: [ms] * rounds for name, ms in zip(sorted(steps), (10.0, 14.0), strict=True)}

    monkeypatch.setattr(study, "in_turn", in_turn)
    study.measure(tmp_path, rounds=3)
    content = json.loads((tmp_path / "step_times.json").read_text())
    assert content["rounds"] == 3 and content["machine"]
    assert set(content["runs"]) == {"r2-s0-run", "r2-s1-run", "r3-s0-run"}  # nothing trains in zero
    assert content["runs"]["r2-s0-run"] == content["runs"]["r2-s1-run"] != content["runs"]["r3-s0-run"]
    assert len(took) == 2 and "python -m analysis.report" in capsys.readouterr().out
