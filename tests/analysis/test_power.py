"""The smallest difference that seeds can show, and the SD that it rests on."""

import json

import numpy as np
import pytest
from scipy import stats as sp

from analysis import power
from analysis.compare.verdicts import verdicts
from analysis.runs.cells import cells
from analysis.runs.load import read
from analysis.stats import Spread


def told(capsys, *words):
    assert power.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_published_multiples_of_the_sd(capsys):
    """Paired t, power .8: 3.26, 1.68, 1.16 and 1.00 SD at 3, 5, 8 and 10 seeds."""
    found = told(capsys, "--seeds", "3,5,8,10,20", "--sd", "1")["detectable"]
    assert {n: round(d, 2) for n, d in found.items()} == {
        "3": 3.26, "5": 1.68, "8": 1.16, "10": 1.0, "20": 0.66,
    }  # fmt: skip


def test_that_difference_is_found_four_times_in_five(capsys):
    from scipy import stats

    effect = told(capsys, "--seeds", "5", "--sd", "0.02")["detectable"]["5"]
    d = np.random.default_rng(0).normal(effect, 0.02, size=(20_000, 5))
    found = stats.ttest_1samp(d, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_seeds_needed_are_the_fewest_that_show_it(capsys):
    found = told(capsys, "--sd", "0.01")
    n = found["seeds_needed"]["0.01"]
    around = told(capsys, "--sd", "0.01", "--seeds", f"{n - 1},{n}")["detectable"]
    assert around[str(n)] <= 0.01 < around[str(n - 1)]


def test_fewer_than_three_seeds_show_nothing(capsys):
    assert power.main(["--seeds", "2,3"]) == 0
    assert "2 seeds: no verdict below 3 seeds" in capsys.readouterr().out
    assert set(told(capsys, "--seeds", "1,2,3")["detectable"]) == {"3"}


def scored(w, variant, r, values):
    for seed, value in enumerate(values):
        metrics = {"validation/accuracy": 0.5, "test/accuracy": value}
        w.run(w.spec(variant, r, seed), metrics=metrics, predictions=False)


def test_a_pilot_of_two_variants_gives_the_sd_of_their_differences(writer):
    """Differences of 0.01, 0.03, 0.05 and of 0, 0, 0.06: squares about their means 8e-4 and 24e-4."""
    w = writer("pilot")
    scored(w, "lora", 4, [0.60, 0.70, 0.50])
    scored(w, "dora", 4, [0.61, 0.73, 0.55])
    scored(w, "lora", 8, [0.50, 0.60, 0.70])
    scored(w, "dora", 8, [0.50, 0.60, 0.76])
    found, source = power.pilot(read(w.root), baseline="lora")
    assert found.sd == pytest.approx(np.sqrt((8e-4 + 24e-4) / 4))
    assert "2 comparisons with lora" in source


def test_a_pilot_with_predictions_counts_test_examples_as_the_report_does(writer, capsys):
    w = writer()
    w.grid(ranks=(8,), seeds=range(4))
    study = read(w.root)
    [row] = verdicts(study, cells(study)).overall.to_dict("records")
    found = told(capsys, "--pilot", str(w.root), "--seeds", "4,1000")
    assert found["detectable"]["4"] == pytest.approx(row["smallest_detectable"])
    assert "200 test examples is counted" in found["counted"]
    least = 2.8 * np.sqrt(found["examples"])  # in standard errors, at power 0.8
    assert found["detectable"]["1000"] == pytest.approx(least, rel=0.05)
    assert {effect: n for effect, n in found["seeds_needed"].items() if float(effect) < least} == {
        "0.005": None, "0.01": None, "0.02": None
    }  # fmt: skip


def test_a_pilot_of_one_cell_gives_twice_its_variance(writer):
    w = writer("floor")
    scored(w, "lora", 8, [0.60, 0.62, 0.64])
    found, _ = power.pilot(read(w.root), baseline="lora")
    assert found.sd == pytest.approx(np.sqrt(2) * 0.02)


def test_mistakes_are_told(writer, capsys):
    w = writer("single")
    w.grid(seeds=(0,))
    for words, text in [
        (["--pilot", str(w.root)], "none of its cells has two completed seeds"),
        (["--pilot", str(w.root / "nowhere")], "no folder"),
        (["--pilot", str(w.root), "--sd", "0.1"], "give one of them"),
        (["--sd", "0"], "above 0"),
        (["--sd", "nan"], "above 0"),
        (["--seeds", "3,x"], "whole numbers"),
    ]:
        assert power.main(words) == 2
        assert text in capsys.readouterr().err


def test_a_pilot_without_the_baseline_is_refused_with_the_nearest(writer, capsys):
    w = writer()
    w.grid(ranks=(8,), seeds=range(3))
    assert power.main(["--pilot", str(w.root), "--baseline", "dorra"]) == 2
    assert "Did you mean 'dora'?" in capsys.readouterr().err


def test_a_large_family_and_few_seeds_have_an_answer(capsys):
    """At two degrees of freedom the difference lies far above the critical value."""
    found = told(capsys, "--seeds", "3", "--sd", "0.01", "--comparisons", "40")
    shift = found["detectable_adjusted"]["3"] / (0.01 / np.sqrt(3))
    assert sp.nct.sf(sp.t.isf(0.05 / 40 / 2, 2), 2, shift) == pytest.approx(0.8, abs=1e-6)


def test_where_seeds_are_the_limit_no_test_set_is_asked_for(capsys):
    found = [power.beyond(0.005, Spread(sd, 1e-4, 2000)) for sd in (0.14, 0.01)]
    assert found == ["more than 1000 seeds", "a larger test set"]


def test_one_of_several_comparisons_must_show_more(capsys):
    found = told(capsys, "--seeds", "5", "--sd", "0.01", "--comparisons", "3")
    n, sd, critical = 5, 0.01, sp.t.isf(0.05 / 3 / 2, 4)
    shift = found["detectable_adjusted"]["5"] / (sd / np.sqrt(n))
    assert sp.nct.sf(critical, n - 1, shift) == pytest.approx(0.8, abs=1e-6)
    assert found["detectable"]["5"] < found["detectable_adjusted"]["5"]
