"""Phases: tuning runs feed curves and budgets, never comparisons; unequal tuning is named."""

import shlex
from itertools import product

import numpy as np
import pytest

from analysis import audit, report
from analysis.compare import verdicts
from analysis.runs import cells, load
from analysis.text import answer, next_steps, tuning

RATES = (1e-3, 2e-3, 4e-3)


@pytest.fixture
def read(writer):
    """A function that reads what a writer wrote: (study, cells, verdicts)."""

    def make(w):
        study = load.read(w.root)
        table = cells.cells(study)
        return study, table, verdicts.verdicts(study, table)

    return make


def fair(w, variant, *, rates=RATES, best=2e-3, seeds=range(5), tune_seeds=(100, 101), effect=0.0, **changes):
    """One variant tuned over `rates` and confirmed at `best`."""
    tuned = {"tuned": ["lr"], **changes}
    for lr in rates:
        for seed in tune_seeds:
            w.run(
                w.spec(variant, 8, seed, lr=lr, phase="tune", **tuned), 0.7 - 0.1 * (lr != best), phase="tune"
            )
    for seed in seeds:
        spec = w.spec(variant, 8, seed, lr=best, phase="confirm", **tuned)
        w.run(spec, 0.7 + effect, phase="confirm")


def text_of(study, table, found):
    said = answer.answer(study, table, found)
    return said.headline, " ".join(point.text for point in said.points)


def test_tuning_runs_and_their_rates_never_enter_a_comparison(writer, read):
    w = writer()
    fair(w, "lora")
    fair(w, "dora", best=4e-3)
    _, table, found = read(w)
    (row,) = found.table.to_dict("records")
    assert (row["n_seeds"], row["seeds"], row["split"]) == (5, (0, 1, 2, 3, 4), "test")
    assert set(table["series"]) == {"lora", "dora"}  # neither phase nor rate names a series
    final = table[table["final"]].set_index("series")
    assert final["lr"].to_dict() == {"lora": 2e-3, "dora": 4e-3}
    assert final["rates"].to_dict() == {"lora": 3, "dora": 3}


def test_equal_tuning_on_other_seeds_is_said_once(writer, read):
    w = writer()
    fair(w, "lora", rates=(*RATES, 8e-3))
    fair(w, "dora", rates=(*RATES, 8e-3))
    _, text = text_of(*read(w))
    assert "tuned equally, with 4 points for each cell, on validation with seeds 100 and 101" in text
    assert "not equal" not in text


def test_a_lead_with_more_tuning_is_not_called_better(writer, read):
    for name, more, said in (
        ("more", "dora", "came out ahead of lora"),
        ("less", "lora", "is better than lora"),
    ):
        w = writer(name, n_examples=600)
        for variant in ("lora", "dora"):
            rates = (5e-4, *RATES, 8e-3) if variant == more else RATES
            fair(w, variant, rates=rates, effect=0.1 * (variant == "dora"))
        study, table, found = read(w)
        assert list(found.table["verdict"]) == ["better"]
        headline, text = text_of(study, table, found)
        assert said in headline and said in text
        points = "5 points for dora, 3 for lora" if more == "dora" else "3 points for dora, 5 for lora"
        assert f"The tuning was not equal: {points}" in text
        items = {item.question: item for item in audit.audit(study, table, found, files=False)}
        tuned = next(item for question, item in items.items() if question.startswith("The learning rate"))
        assert not tuned.met and f"5 for {more}" in tuned.finding


def test_tuned_against_untuned_is_named(writer, read):
    w = writer(n_examples=600)
    fair(w, "dora", effect=0.1)
    for seed in range(5):
        w.run(w.spec("lora", 8, seed), 0.7)
    headline, text = text_of(*read(w))
    assert "ahead of lora with more tuning" in headline
    assert "3 points for dora, 1 for lora" in text


def test_a_variant_with_nothing_to_tune_needs_no_budget(writer, read):
    w = writer(n_examples=600)
    fair(w, "lora")
    for seed in range(5):
        w.run(w.spec("probe", 8, seed, lr=0.0), 0.3, phase="confirm")
    headline, text = text_of(*read(w))
    assert headline == "probe is worse than lora." and "not equal" not in text


def test_shared_seeds_and_edges_are_told(writer, read):
    w = writer()
    fair(w, "lora", tune_seeds=(0, 1))
    fair(w, "dora", tune_seeds=(0, 1), best=4e-3)
    study, table, found = read(w)
    _, text = text_of(study, table, found)
    assert "on validation of seeds that are compared as well" in text
    assert "The lr chosen for dora lies on the edge of those tried" in text
    items = {item.question: item for item in audit.audit(study, table, found, files=False)}
    assert (
        "seeds in both: [0, 1]"
        in items["Rates were chosen with other seeds than those that are compared"].finding
    )
    assert not items["No chosen value lies on the edge of its grid"].met


def test_plain_runs_beside_confirmed_ones_are_shown_and_not_compared(writer, read):
    w = writer()
    for variant in ("lora", "dora"):
        fair(w, variant)
        for seed in (7, 8):
            w.run(w.spec(variant, 8, seed, lr=4e-3), 0.99)
    study, table, found = read(w)
    assert list(found.table["n_seeds"]) == [5] and set(found.table["seeds"]) == {(0, 1, 2, 3, 4)}
    assert table["beside"].sum() == 2 and not table[table["beside"]]["final"].any()
    page = (report.build(w.root, images_too=False).parent / "report.md").read_text()
    assert "Plain runs of cells that were tuned and confirmed: shown, not compared (2)" in page
    items = {item.question: item for item in audit.audit(study, table, found, files=False)}
    assert not items["The test set was read for the chosen values alone"].met


def test_of_two_confirmed_rates_the_one_that_tuning_recommends_is_compared(writer, read):
    w = writer()
    fair(w, "lora")
    for seed in range(5):  # confirmed before the grid had grown to 2e-3; lucky on validation
        spec = w.spec("lora", 8, seed, lr=1e-3, phase="confirm", tuned=["lr"])
        w.run(spec, 0.9, phase="confirm")
    _, table, _ = read(w)
    assert list(table.loc[table["final"], "lr"]) == [2e-3]
    page = (report.build(w.root, images_too=False).parent / "report.md").read_text()
    assert "later tuning recommends another value" in page


def test_other_keys_that_were_tuned_make_neither_series_nor_strangers(writer, read):
    w = writer()
    tuned = ["lr", "train.weight_decay"]
    for variant, chosen in (("lora", 0.0), ("dora", 0.1)):
        for lr in RATES:
            for decay in (0.0, 0.1):
                good = 0.7 - 0.1 * (lr != 2e-3) - 0.1 * (decay != chosen)
                changes = {"lr": lr, "train__weight_decay": decay, "tuned": tuned}
                w.run(w.spec(variant, 8, 100, phase="tune", **changes), good, phase="tune")
        for seed in range(5):
            changes = {"lr": 2e-3, "train__weight_decay": chosen, "tuned": tuned}
            w.run(w.spec(variant, 8, seed, phase="confirm", **changes), phase="confirm")
    _, table, found = read(w)
    assert list(found.table["n_seeds"]) == [5]
    assert set(table["series"]) == {"lora", "dora"}
    rows = tuning.table(table, found.budgets)
    assert [(len(row["curve"]), row["points"], row["chosen"]) for row in rows] == [(3, 6, 2e-3)] * 2


def test_a_head_whose_rate_follows_is_one_group(writer, read):
    w = writer()
    for lr in RATES:
        for phase, seeds in (("tune", (100,)), ("confirm", (0, 1, 2) if lr == 2e-3 else ())):
            for seed in seeds:
                spec = w.spec("probe", 8, seed, lr=lr, train__head_lr=lr, phase=phase)
                good = 0.7 - 0.1 * (lr != 2e-3)
                w.run(spec | {"tuned": ["lr", "train.head_lr"]}, good, phase=phase)
        w.run(w.spec("probe", 8, 5, lr=lr, train__head_lr=lr))  # a plain sweep beside it
    _, table, found = read(w)
    assert table["group_key"].nunique() == 1 and list(table.loc[table["final"], "lr"]) == [2e-3]
    (budget,) = found.budgets.values()
    assert (budget.points, budget.seeds, budget.edges) == (3, (100,), ())


def test_the_command_that_adds_seeds_to_a_confirmed_cell_is_a_fair_one(writer, read):
    w = writer()
    fair(w, "lora", seeds=(0, 1))
    fair(w, "dora", seeds=(0, 1), best=1e-3)
    commands = next_steps.commands(*read(w))
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command)
        assert {"seed=0,1,2", "lr=0.001,0.002,0.004", "hydra/sweeper=fair"} <= set(words)
        assert "hydra.sweeper.tune_seeds=[100,101]" in words
        assert sum(word.startswith("lr=") for word in words) == 1


# --- points that were dropped after short runs

LADDER = ((38, (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)), (75, (2e-3, 4e-3)))


def halved(w, variant, *, best=2e-3, halving=2, ladder=LADDER):
    """One variant tuned by successive halving and confirmed at `best` with the full 150 steps."""
    said = {"tuned": ["lr", "train.steps"], "halving": halving}
    for steps, rates in ladder:
        for lr in rates:
            for seed in (100, 101):
                spec = w.spec(variant, 8, seed, lr=lr, phase="tune", train__steps=steps, **said)
                w.run(spec, 0.7 - 0.1 * (lr != best), phase="tune")
    for seed in range(5):
        w.run(w.spec(variant, 8, seed, lr=best, phase="confirm", **said), 0.7, phase="confirm")


def test_halving_counts_each_point_once_and_is_said(writer, read):
    w = writer()
    halved(w, "lora")
    halved(w, "dora", best=4e-3)
    study, table, found = read(w)
    final = table[table["final"]].set_index("series")
    assert final["rates"].to_dict() == {"lora": 5, "dora": 5}
    assert final["lr"].to_dict() == {"lora": 2e-3, "dora": 4e-3}
    (row,) = found.table.to_dict("records")
    assert row["sides"].equal and all(budget.apart for budget in row["sides"].both)
    assert not any(budget.edges for budget in found.budgets.values())
    items = {item.question: item for item in audit.audit(study, table, found, files=False)}
    rule = items["All points were dropped by one rule, the same for every variant"]
    assert rule.met and rule.finding == "halving=2: 5 with 38, 2 with 75 of 150 steps"
    assert items["The learning rate of every variant was tuned, with the same number of points"].met
    _, points = text_of(study, table, found)
    assert "with 5 points for each cell" in points
    said = " ".join(answer.answer(study, table, found).limits)
    assert "chosen after runs of 38 and 75 instead of 150 steps or epochs (halving)" in said
    (curve, _) = tuning.table(table, found.budgets)
    assert len(curve["curve"]) == 5 and not curve["edge"]
    again = next_steps.commands(study, table, found)
    assert all("hydra.sweeper.halving=2" in text and "steps=" not in text for text in again)


def test_the_luck_of_halving_is_that_of_its_shortest_runs(writer, read):
    """They alone have every point; what longer ones say of the best is no second point there."""

    def regrets(ladder):
        w, said = writer(f"of{len(ladder)}"), {"tuned": ["lr", "train.steps"], "halving": 2}
        for steps, rates in ladder:  # the shortest first, so that their noise is the same
            for variant, lr, seed in product(("lora", "dora"), rates, (100, 101)):
                spec = w.spec(variant, 8, seed, lr=lr, phase="tune", train__steps=steps, **said)
                w.run(spec, 0.7 - 0.004 * np.log2(lr / 4e-3) ** 2, phase="tune")
        for variant, seed in product(("lora", "dora"), range(5)):
            w.run(w.spec(variant, 8, seed, lr=4e-3, phase="confirm", **said), 0.7, phase="confirm")
        return [budget.regret for budget in read(w)[2].budgets.values()]

    assert regrets(LADDER)[0].mean() > 0
    assert np.array_equal(regrets(LADDER), regrets(LADDER[:1]))


def test_an_edge_is_one_of_all_points_that_were_tried(writer, read):
    w = writer()
    halved(w, "lora", best=1e-3, ladder=(LADDER[0], (75, (1e-3, 2e-3))))
    halved(w, "dora")
    _, _, found = read(w)
    assert sorted(budget.edges for budget in found.budgets.values()) == [(), ("lr",)]


def test_one_variant_with_another_rule_is_named(writer, read):
    w = writer()
    halved(w, "lora")
    fair(w, "dora", rates=LADDER[0][1])
    study, table, found = read(w)
    items = {item.question: item for item in audit.audit(study, table, found, files=False)}
    rule = items["All points were dropped by one rule, the same for every variant"]
    assert not rule.met and "none dropped" in rule.finding and "halving=2" in rule.finding
    assert found.table.empty, "what was chosen from shorter runs is not compared with what was not"
