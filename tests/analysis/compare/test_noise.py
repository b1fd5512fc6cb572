"""The noise floor: what seeds do to one cell, what a repeat does, and that it is no veto."""

import json

import numpy as np
import pytest

from analysis import report
from analysis.compare import noise, verdicts
from analysis.runs import cells, load
from analysis.text import answer


def known(w):
    study = load.read(w.root)
    table = cells.cells(study)
    return study, table, verdicts.verdicts(study, table)


def scored(w, variant, scores, **changes):
    """Runs of one cell with given test results, seed by seed."""
    for seed, score in enumerate(scores):
        metrics = {"test/accuracy": score, "validation/accuracy": 0.7}
        w.run(w.spec(variant, 8, seed, **changes), metrics=metrics, predictions="flat")


def test_the_floor_is_the_pooled_deviation_between_seeds(writer):
    w, rng = writer(), np.random.default_rng(0)
    sides = {"lora": rng.normal(0.7, 0.02, 5), "dora": rng.normal(0.8, 0.05, 4)}
    for variant, values in sides.items():
        scored(w, variant, values)
    study, table, _ = known(w)
    (floor,) = noise.floors(study, table).values()
    within = sum(((values - values.mean()) ** 2).sum() for values in sides.values())
    assert (floor.df, floor.sd) == (7, pytest.approx(np.sqrt(within / 7)))
    assert floor.level == floor.sd


def test_plain_runs_beside_confirmed_ones_make_the_floor(writer):
    """The README's example: a study that was tuned and confirmed, then the noise floor in the same study."""
    w, values = writer(), np.random.default_rng(0).normal(0.7, 0.03, 8)
    w.run(w.spec("lora", 8, 100, lr=0.002), phase="tune")
    w.run(w.spec("lora", 8, 0, lr=0.002), phase="confirm")
    scored(w, "lora", values)
    study, table, _ = known(w)
    assert table["beside"].sum() == 1
    (floor,) = noise.floors(study, table).values()
    assert (floor.df, floor.level) == (7, pytest.approx(values.std(ddof=1)))


def test_three_seeds_of_one_cell_are_too_few_for_a_floor(writer):
    w = writer()
    scored(w, "lora", (0.70, 0.71, 0.72))
    study, table, _ = known(w)
    (floor,) = noise.floors(study, table).values()
    assert np.isnan(floor.level) and floor.sd == pytest.approx(0.01)


def repeated(w, score, files):
    scored(w, "lora", (0.70, 0.71, 0.72, 0.73, 0.74))
    for path in w.root.glob("*-s0-*/record.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"files": {"history.jsonl": "a", "spec.json": "b"}}))
    metrics = {"test/accuracy": score, "validation/accuracy": 0.7}
    w.run(w.spec("lora", 8, 0, repeat=1), metrics=metrics, predictions=False, files=files)


def test_a_repeat_with_the_same_bits_adds_no_seed_and_is_told(writer):
    w = writer()
    repeated(w, 0.70, {"history.jsonl": "a", "spec.json": "c"})
    study, table, found = known(w)
    assert list(table["n"]) == [5] and study.problems == []
    text = " ".join(point.text for point in answer.answer(study, table, found).points)
    assert "one run was repeated with the same seed and ended 0 apart, to the same bits" in text
    assert "below 0.016, the noise floor" in text
    assert "to the same bits" in (report.build(w.root, images_too=False).parent / "report.md").read_text()


def test_a_repeat_that_ends_elsewhere_raises_the_floor(writer):
    w = writer()
    repeated(w, 0.75, {"history.jsonl": "z"})
    study, table, _ = known(w)
    (floor,) = noise.floors(study, table).values()
    assert (floor.apart, floor.identical, floor.level) == (pytest.approx(0.05), False, pytest.approx(0.05))


def test_the_margin_decides_and_the_floor_is_no_veto(writer):
    """A mean over five seeds that differ far less, paired, than the seeds of one cell do."""
    w = writer()
    base = np.array([0.60, 0.65, 0.70, 0.75, 0.80])
    scored(w, "lora", base)
    scored(w, "dora", base + 0.02 + np.array([0, 0.001, -0.001, 0.001, 0]))
    study, table, found = known(w)
    (floor,) = noise.floors(study, table).values()
    assert floor.level > 0.02 and list(found.table["conclusion"]) == ["better"]
    assert "dora is better than lora" in answer.answer(study, table, found).headline
    negligible = verdicts.verdicts(study, table, margin=0.03)
    assert list(negligible.table["conclusion"]) == ["equivalent"]
    assert "real but negligible" in answer.answer(study, table, negligible).points[0].text


def test_a_difference_above_the_floor_is_ranked(writer):
    w = writer()
    base = np.array([0.60, 0.61, 0.62, 0.63, 0.64])
    scored(w, "lora", base)
    scored(w, "dora", base + 0.1 + np.array([0, 0.001, -0.001, 0.001, 0]))
    assert answer.answer(*known(w)).headline == "At the learning rates given, dora is better than lora."


def test_a_floor_in_the_study_is_told_with_single_seeds(writer):
    w = writer()
    scored(w, "lora", (0.70, 0.72, 0.68, 0.71, 0.69))
    scored(w, "dora", (0.705,))
    text = " ".join(point.text for point in answer.answer(*known(w)).points)
    assert "They differ by less than the noise floor of 0.016, the effect of a seed alone" in text
