"""Step times that chance or other work on the machine may have ordered: planted, and nothing concluded."""

import json

import pytest

from analysis import report
from analysis.figures import overview
from analysis.runs import cells, load, timing
from analysis.text import choice, ranks
from analysis.text.circumstances import on_step_times

QUIET = {"busy_cores": 1.0, "load_per_core": 0.5}


def study_of(w):
    study = load.read(w.root)
    return study, cells.cells(study)


def planted(w, times, *, seeds=(0,), **facts):
    """Cells with accuracies and step times: {variant: (accuracy, low, median, high)}."""
    for variant, (accuracy, low, middle, high) in times.items():
        for seed in seeds:
            spec = w.spec(variant, 8, seed)
            cost = w._cost(spec) | {"step_ms": middle, "step_ms_low": low, "step_ms_high": high} | facts
            w.run(spec, accuracy, cost={k: v for k, v in cost.items() if v is not None})


def front(w, axis="step_ms"):
    """The series that the line joins in the figure of a cost."""
    table = overview.with_bars(study_of(w)[1])
    chart = overview.by_cost(table, sorted(table["series"]), axis).to_dict()
    ((_, values),) = chart["datasets"].items()
    return sorted(row["series"] for row in values if row["best"])


def ratio(w, variant="dora"):
    from analysis.foreign.independent import verdicts

    study, table = study_of(w)
    found = verdicts(study, table)
    lines = choice.choice(study, table, found, ranks.advise(study, table, margin=0.01)).rows
    return next(line["ratios"]["step_ms"] for line in lines if line["series"] == variant)


APART = {"lora": (0.6, 99.0, 100.0, 101.0), "dora": (0.8, 149.0, 150.0, 151.0)}
OVERLAP = {"lora": (0.6, 80.0, 100.0, 160.0), "dora": (0.8, 120.0, 150.0, 300.0)}


def test_times_that_are_apart_make_a_line_and_a_ratio(writer):
    w = writer(n_examples=2000)
    planted(w, APART, seeds=range(3), **QUIET)
    assert front(w) == ["dora", "lora"] and ratio(w) == pytest.approx(1.5)
    assert on_step_times(*study_of(w)) == ""


@pytest.mark.parametrize(
    ("times", "facts", "why"),
    [
        (OVERLAP, QUIET, "their spreads overlap"),
        (APART, {**QUIET, "busy_cores": 0.6}, "other work ran on the machine during 6 of the runs"),
        (APART, {**QUIET, "load_per_core": 2.1}, "other work ran on the machine during 6 of the runs"),
    ],
)
def test_no_line_and_no_ratio_through_noise(writer, times, facts, why):
    w = writer(n_examples=2000)
    planted(w, times, seeds=range(3), **facts)
    assert front(w) == [] and ratio(w) is None
    assert overview.no_line(study_of(w)[1], "step_ms") == why
    assert front(w, "trainable_parameters") == ["dora", "lora"]  # a number that has no noise
    assert ("Other work ran" in on_step_times(*study_of(w))) == ("other work" in why)


def test_one_record_of_an_older_version_says_nothing_of_its_spread_and_three_do(writer):
    old = {name: (accuracy, None, middle, None) for name, (accuracy, _, middle, _) in APART.items()}
    none = dict.fromkeys(QUIET)
    w = writer("one", n_examples=2000)
    planted(w, old, **none)
    assert front(w) == [] and "spread of some step times is not known" in on_step_times(*study_of(w))
    w = writer("three", n_examples=2000)
    planted(w, old, seeds=range(3), **none)
    assert front(w) == ["dora", "lora"]


def test_the_spread_of_a_cell_reaches_over_its_runs():
    rows = [
        {"step_ms": m, "step_ms_low": m - 1.0, "step_ms_high": m + 1.0, **QUIET}
        for m in (100.0, 104.0, 108.0, 112.0, 300.0)
    ]
    found = timing.of_cell(rows)
    assert (found["step_ms"], found["step_ms_low"], found["step_ms_high"]) == (108.0, 103.0, 113.0)


def test_times_measured_in_turn_count_instead(writer):
    w = writer(n_examples=2000)
    planted(w, OVERLAP, seeds=range(3), busy_cores=0.5, load_per_core=3.0)
    planted(w, {"adalora": (0.7, 70.0, 120.0, 170.0)}, seeds=range(3), **QUIET)
    runs = {
        run: {"step_ms": ms, "step_ms_low": ms - 1, "step_ms_high": ms + 1}
        for variant, ms in (("lora", 40.0), ("dora", 52.0))
        for run in (p.name for p in w.root.glob(f"{variant}-*"))
    }
    content = {"machine": "a quiet one, 2 threads", "rounds": 30, "runs": runs}
    (w.root / "step_times.json").write_text(json.dumps(content))
    study, table = study_of(w)
    assert ratio(w) == pytest.approx(52 / 40) and ratio(w, "adalora") is None
    said = on_step_times(study, table)
    assert "in turn, 30 rounds on a quiet one, 2 threads" in said and "1 cells were not among them" in said
    page = (report.build(w.root, images_too=False).parent / "report.md").read_text()
    assert "52 (51 to 53)" in page and "a quiet one, 2 threads" in page


@pytest.mark.parametrize("text", ["{", '{"machine": "m", "rounds": 3, "runs": {"x": {"step_ms": 1}}}', "[]"])
def test_a_torn_measurement_is_named_and_not_used(writer, text):
    w = writer()
    planted(w, APART, **QUIET)
    (w.root / "step_times.json").write_text(text)
    study = load.read(w.root)
    assert study.in_turn is None and study.problems[0].run == "step_times.json"
    assert set(study.runs["step_ms"]) == {100.0, 150.0}
