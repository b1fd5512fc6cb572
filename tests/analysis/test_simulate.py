"""The simulated studies: their truth is what they say, and the command prints its tables."""

import numpy as np
import pytest

from analysis import simulate, simulated, through_files
from analysis.compare.verdicts import judged
from analysis.simulated import Truth


def drawn(truth):
    return simulated.drawn(simulated.samples(np.random.default_rng(0), truth))


def test_the_scores_have_the_accuracy_and_the_noise_that_are_said():
    truth = Truth(effects=(0.05,), seeds=40, ranks=4, examples=4000)
    accuracy = np.array([[0.7] * 4, [0.75] * 4])
    runs = simulated.scores(np.random.default_rng(0), truth, accuracy).mean(axis=3)
    assert runs.mean(axis=(1, 2)) == pytest.approx([0.7, 0.75], abs=0.02)
    assert np.diff(runs.mean(axis=(1, 2))) == pytest.approx([0.05], abs=0.005)
    small = Truth(effects=(0.0,), seeds=40, ranks=4)
    runs = simulated.scores(np.random.default_rng(1), small, np.full((2, 4), 0.7)).mean(axis=3)
    assert np.sqrt(runs.var(axis=2, ddof=1).mean()) == pytest.approx(0.01, rel=0.1)  # with 800 examples


def test_a_clear_effect_on_two_datasets_is_found_over_them_and_on_each():
    truth = Truth(effects=(0.1, 0.0, 0.0), ranks=2, seeds=3, datasets=2)
    table, across = judged(drawn(truth))
    assert across["verdict"].iloc[0] == "better" and across["datasets"].iloc[0] == ("data0", "data1")
    first = table[table["overall"] & (table["variant"] == "v1")]
    assert list(first["conclusion"]) == ["better", "better"]
    assert across["difference"].iloc[0] == pytest.approx(first["difference"].mean())
    assert across["share"].iloc[0] == pytest.approx(0.5 / 3) and first["share"].iloc[0] == pytest.approx(
        0.5 / 6
    )


def test_tuned_studies_count_the_luck_of_their_choice():
    rows = drawn(Truth(effects=(0.0,), ranks=1, seeds=3, curvature=0.5))
    (row,) = judged(rows)[0].to_dict("records")
    assert row["found"].noise.tuning == pytest.approx(row["sides"].luck) and row["sides"].luck > 0


def test_the_command_prints_rates_with_their_errors(capsys):
    assert simulate.main(["--studies", "4", "--jobs", "1", "--only", "two variants alone"]) == 0
    assert "false verdict 0.000 (" in capsys.readouterr().out
    assert simulate.main(["--studies", "1"]) == 2


@pytest.mark.parametrize(
    "truth",
    [
        Truth(effects=(0.05, 0.0, 0.0), ranks=2, examples=120),
        Truth(effects=(0.1, 0.0), ranks=1, examples=150, curvature=1.0),
        Truth(effects=(0.1,), ranks=2, examples=90, datasets=2),
    ],
)
def test_studies_get_the_same_verdicts_through_files_as_in_memory(truth):
    found = through_files.disagreement(truth, 1)
    rows = len(truth.effects) * ((truth.ranks + (truth.ranks > 1)) * truth.datasets + (truth.datasets > 1))
    assert found.comparisons == rows and found.verdicts == 0 and found.numbers < 1e-9


def test_a_verdict_that_files_change_is_seen(monkeypatch, capsys):
    truth = Truth(effects=(0.2,), ranks=1, examples=400)
    original = through_files.write

    def swapped(study, found):
        original(
            study,
            {
                name: simulated.Sample(s.right[::-1], s.budgets, s.tuning, s.chosen)
                for name, s in found.items()
            },
        )

    monkeypatch.setattr(through_files, "write", swapped)
    assert through_files.disagreement(truth, 1).verdicts == 1
    monkeypatch.setattr(through_files, "KINDS", {"one": truth})
    assert simulate.main(["--studies", "2", "--jobs", "1", "--only", "Through files"]) == 1
    assert "1 of 1 verdicts differ" in capsys.readouterr().out
