"""Studies that were not compared fairly: each is planted, and its headline must not give a plain verdict."""

import json

import numpy as np
import pytest
from scipy import stats as sp

from analysis import audit
from analysis.compare import luck, verdicts
from analysis.page import content
from analysis.runs import cells, load
from analysis.text import answer, limits, ranks
from experiments.record import write_planned

RATES = (1e-3, 2e-3, 4e-3)


def tuned(
    w,
    variant,
    *,
    effect=0.0,
    gap=0.1,
    rates=RATES,
    best=2e-3,
    tune_seeds=(100, 101),
    confirmed=range(5),
    **changes,
):
    """One variant tuned over `rates` and confirmed at `best`; without `tune_seeds`, only confirmed."""
    keys = {"tuned": ["lr"], **changes}
    for lr in rates:
        for seed in tune_seeds:
            spec = w.spec(variant, 8, seed, lr=lr, phase="tune", **keys)
            w.run(spec, 0.7 - gap * (lr != best), phase="tune")
    for seed in confirmed:
        spec = w.spec(variant, 8, seed, lr=best, phase="confirm", **keys)
        w.run(spec, 0.7 + effect, phase="confirm")


def plain(w, variant, accuracy, *, seeds=range(5), **changes):
    return [w.run(w.spec(variant, 8, seed, **changes), accuracy) for seed in seeds]


def said(w, **options):
    study = load.read(w.root)
    table = cells.cells(study)
    found = verdicts.verdicts(study, table, **options)
    (row,) = found.table.to_dict("records")
    return row, answer.answer(study, table, found).headline


def same_answers(writer):
    """A writer of studies whose variants answer almost equally: equivalent within 0.02."""
    return writer(n_examples=4000, noise=(1.0, 0.0, 0.0, 0.1))


def test_the_same_studies_without_a_fault_get_their_verdicts(writer):
    w = writer("better", n_examples=600)
    for variant, effect in (("lora", 0.0), ("dora", 0.1)):
        tuned(w, variant, effect=effect)
    assert said(w)[1] == "dora is better than lora."
    w = writer("equal", n_examples=4000, noise=(1.0, 0.0, 0.0, 0.1))
    plain(w, "lora", 0.7), plain(w, "dora", 0.7)
    assert said(w, margin=0.02)[1] == "At the learning rates given, dora is equivalent to lora."


def test_rates_confirmed_without_their_tuning_runs(writer):
    w = writer(n_examples=600)
    for variant, effect in (("lora", 0.0), ("dora", 0.1)):
        tuned(w, variant, effect=effect, tune_seeds=())
    row, headline = said(w)
    assert (row["verdict"], row["conclusion"]) == ("better", "ahead")
    assert "ahead of lora with tuning runs that are not in this study" in headline


def test_more_seeds_for_every_rate_are_more_tuning(writer):
    w = writer(n_examples=600)
    for variant, effect, more in (("lora", 0.0, (0,)), ("dora", 0.1, range(5))):
        for lr in RATES:
            for seed in range(5) if lr == 2e-3 else more:
                w.run(w.spec(variant, 8, seed, lr=lr), 0.7 + effect - 0.1 * (lr != 2e-3))
    row, headline = said(w)
    assert row["conclusion"] == "ahead" and "ahead of lora with more tuning" in headline


@pytest.mark.parametrize("edge", ["lora", "dora"])
def test_the_rate_of_the_side_behind_lies_on_the_edge(writer, edge):
    w = writer(n_examples=600)
    for variant, effect in (("lora", 0.0), ("dora", 0.1)):
        tuned(w, variant, effect=effect, best=4e-3 if variant == edge else 2e-3)
    row, headline = said(w)
    assert row["conclusion"] == ("ahead" if edge == "lora" else "better")
    assert ("while the rate of lora lies on the edge" in headline) == (edge == "lora")


def test_heads_trained_at_rates_four_times_apart(writer):
    w = writer(n_examples=600)
    plain(w, "lora", 0.7), plain(w, "dora", 0.8, train__head_lr=0.02)
    row, headline = said(w)
    assert row["conclusion"] == "ahead" and "with another learning rate of the head" in headline


def test_runs_that_diverged_on_one_side_are_not_equivalent(writer):
    w = same_answers(writer)
    plain(w, "lora", 0.7, seeds=range(8)), plain(w, "dora", 0.7, seeds=range(6))
    for seed in (6, 7):
        w.run(w.spec("dora", 8, seed), status="diverged")
    row, headline = said(w, margin=0.02)
    assert (row["verdict"], row["conclusion"]) == ("equivalent", "withheld")
    assert "not called equivalent to lora: more runs failed or diverged on one side" in headline


def test_copies_of_one_run_are_no_seeds(writer):
    w = writer(n_examples=600)
    plain(w, "lora", 0.7)
    first = w.run(w.spec("dora", 8, 0), 0.8)
    for seed in range(1, 5):
        record = w.run(w.spec("dora", 8, seed), 0.8, metrics=first["metrics"])
        path = w.root / first["run_id"] / "predictions.parquet"
        (w.root / record["run_id"] / path.name).write_bytes(path.read_bytes())
    row, headline = said(w)
    assert row["verdict"] == "" and "runs of dora with different seeds are copies of each other" in headline


def falling(w, slope):
    """Give every run losses that fall like exp(-slope t) from the start (t = 0) to the end (t = 1)."""
    for path in w.root.glob("*/history.jsonl"):
        loss = lambda step: 1 + 1.5 * 2.718281828 ** (-slope * step / 150)  # noqa: E731
        rows = [{"step": s, "loss": loss(s)} for s in range(1, 151)]
        rows += [{"step": s, "validation/loss": loss(s)} for s in (50, 100, 150)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(("slope", "early"), [(1.0, True), (8.0, False)])
def test_training_that_stops_while_the_loss_falls_shows_no_equivalence(writer, slope, early):
    w = same_answers(writer)
    plain(w, "lora", 0.7), plain(w, "dora", 0.7)
    falling(w, slope)
    row, headline = said(w, margin=0.02)
    assert row["conclusion"] == ("withheld" if early else "equivalent")
    assert ("the validation loss was still falling when training ended" in headline) == early


def test_no_rank_is_sufficient_while_the_loss_falls(writer):
    w = same_answers(writer)
    for r in (4, 8):
        for seed in range(4):
            w.run(w.spec("lora", r, seed), 0.7)
    for slope, sufficient in ((8.0, True), (1.0, False)):
        falling(w, slope)
        study = load.read(w.root)
        (found,) = ranks.advise(study, cells.cells(study), margin=0.02)
        assert (found.sufficient is not None) == sufficient


def test_the_luck_of_tuning_widens_the_interval_of_a_tuned_comparison(writer):
    w = writer(n_examples=600)
    tuned(w, "lora", gap=0.01), tuned(w, "dora", gap=0.01)  # as much as a tuning run is off by chance
    row, _ = said(w)
    noise = row["found"].noise
    assert 0 < noise.tuning == pytest.approx(row["sides"].luck)
    untuned = noise._replace(tuning=0.0)
    assert row["ci_high"] - row["ci_low"] == pytest.approx(2 * noise.half_width())
    assert noise.half_width() > untuned.half_width()
    (budget,) = row["sides"].variant
    assert budget.regret.shape == (luck.DRAWS,) and budget.regret.min() >= 0


def test_seeds_that_were_added_cost_a_factor(writer):
    w = writer(n_examples=600)
    records = [*plain(w, "lora", 0.7), *plain(w, "dora", 0.72)]
    once = said(w)[0]
    (w.root / ".planned").mkdir()
    for n in (3, 4, 5):
        asked = {r["run_id"]: {} for r in records if r["spec"]["seed"] < n}
        (w.root / ".planned" / f"{n}.json").write_text(json.dumps({"cells": asked}))
    row, _ = said(w)
    assert row["steps"] == (3, 4, 5) and row["p"] == pytest.approx(min(9 * once["p"], 1))


@pytest.mark.parametrize(
    ("requests", "steps", "factor"),
    [
        (((0, 1, 2, 3, 4),), (5,), 1),
        (((0, 1, 2, 3, 4), (0, 1, 2), (4,)), (5,), 1),  # fewer of them again, as `retry` does
        (((0, 1, 2), (0, 1, 2, 3, 4)), (3, 5), 4),
        (((4,), (3, 4), (0, 1, 2, 3, 4)), (1, 2, 5), 1),  # too few for a verdict before
        (((2, 3, 4), (0, 1)), (3, 5), 4),  # the larger seeds first
    ],
)
def test_requests_count_in_the_order_in_which_they_were_made(writer, requests, steps, factor):
    w = writer(n_examples=600)
    records = [*plain(w, "lora", 0.7), *plain(w, "dora", 0.72)]
    once = said(w)[0]
    for seeds in requests:
        write_planned(w.root, {r["run_id"]: {} for r in records if r["spec"]["seed"] in seeds})
    row, _ = said(w)
    assert row["steps"] == steps and row["p"] == pytest.approx(min(factor * once["p"], 1))
    study = load.read(w.root)
    table = cells.cells(study)
    found = verdicts.verdicts(study, table)
    (item,) = [item for item in audit.audit(study, table, found) if item.question.startswith("All seeds")]
    assert item.met is (len(steps) == 1)
    seeds = dict(content.facts(study, table, found))["Seeds"]
    there = ", then ".join(map(str, steps))
    assert seeds.endswith("requested at once" if len(steps) == 1 else f"requested in steps: {there}")
    text = " ".join(limits.limits(study, table, found))
    assert ("Seeds were added later" in text) == (len(steps) > 1)
    assert ("p is multiplied by 4" in text) == (factor == 4)


def test_looks_count_over_datasets_too(writer):
    w = writer(n_examples=600)
    records = [r for name in ("one", "two") for v in ("lora", "dora") for r in plain(w, v, 0.7, dataset=name)]
    mean = lambda: verdicts.verdicts(study := load.read(w.root), cells.cells(study)).across.iloc[0]  # noqa: E731
    once = mean()
    for n in (3, 5):
        write_planned(w.root, {r["run_id"]: {} for r in records if r["spec"]["seed"] < n})
    assert mean()["p"] == pytest.approx(min(4 * once["p"], 1.0))


def test_looks_at_three_to_ten_seeds_err_in_about_five_percent():
    d, wrong, plain = np.random.default_rng(0).standard_normal((10_000, 10)), False, False
    for looks, n in enumerate(range(3, 11), start=1):
        p = sp.ttest_1samp(d[:, :n], 0, axis=1).pvalue
        wrong, plain = wrong | (p * looks**2 < 0.05), plain | (p < 0.05)
    assert wrong.mean() <= 0.06 and plain.mean() > 0.15
