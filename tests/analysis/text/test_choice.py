"""The first screen: whom it recommends, at what cost, and when it recommends nobody."""

import pytest

from analysis.compare import verdicts
from analysis.runs import cells, load
from analysis.text import choice, next_steps, ranks


@pytest.fixture
def chosen():
    """A function that reads a study and gives its choice and what to run next."""

    def make(w, **options):
        study = load.read(w.root)
        table = cells.cells(study)
        found = verdicts.verdicts(study, table, **options)
        advice = ranks.advise(study, table, margin=found.margin)
        return choice.choice(study, table, found, advice), next_steps.steps(study, table, found)

    return make


def test_the_winner_is_recommended_with_its_costs_and_its_rivals(writer, chosen):
    w = writer(n_examples=800)
    w.grid(("lora", "dora", "rslora"), (8,), range(6), effects={"dora": 0.1, "rslora": 0.1})
    found, _ = chosen(w)
    leader, rival = found.leader, {"dora": "rslora", "rslora": "dora"}[found.leader]
    assert found.sentence.startswith(f"Take {leader} at rank 8: +0.")
    assert found.sentence.endswith(f"; {rival} is not shown to be behind it.")
    (row,) = found.among
    assert (row["variant"], row["leader"]) == (rival, leader) and row["low"] < 0 < row["high"]
    lines = {line["series"]: line for line in found.rows}
    assert found.rows[0]["series"] == "lora" and lines["lora"]["base"]
    assert lines["dora"]["ratios"]["step_ms"] == pytest.approx(265.2 / 231.2)  # the writer's costs


def test_a_rank_that_suffices_is_the_one_that_is_shown(writer, chosen):
    w = writer(n_examples=2000, noise=(1.0, 0.01, 0.05, 0.05))
    for r in (4, 8):
        for seed in range(6):
            w.run(w.spec("lora", r, seed), 0.7), w.run(w.spec("dora", r, seed), 0.8)
    found, _ = chosen(w)
    assert {line["r"] for line in found.rows} == {4.0}
    assert found.sentence.startswith("Take dora at rank 4:") and "means over ranks 4 and 8" in found.note


def test_full_fine_tuning_is_a_reference_and_never_the_choice(writer, chosen):
    w = writer(n_examples=800)
    w.grid(("lora", "dora"), (8,), range(5))
    for seed in range(5):
        w.run(w.spec("full", 8, seed), 0.9)
    found, _ = chosen(w)
    assert found.sentence.startswith("Keep lora at rank 8: no variant is shown to be better")
    assert found.rows[-1]["series"] == "full" and found.rows[-1]["reference"]


def test_two_settings_are_counted(writer, chosen):
    w = writer(n_examples=800)
    for dataset, effect in (("a", 0.1), ("b", -0.1)):
        w.grid(("lora", "dora"), (8,), range(5), effects={"dora": effect}, dataset=dataset)
    found, _ = chosen(w)
    assert found.sentence.startswith("Take dora: better than lora in 1 of 2 settings, worse on 1")


def test_a_mean_over_datasets_counts_before_single_ones(writer, chosen):
    w = writer(n_examples=800)
    for dataset in "abc":
        w.grid(("lora", "dora"), (8,), range(5), effects={"dora": 0.1}, dataset=dataset)
    assert chosen(w)[0].sentence.startswith("Take dora: +0.")
    assert "the mean over 3 datasets; better on 3 of 3 alone" in chosen(w)[0].sentence


def test_one_seed_recommends_nobody_and_says_what_to_run(writer, chosen):
    w = writer()
    w.grid()
    found, steps = chosen(w)
    assert found.sentence == "" and len(found.rows) == 2 and found.rows[1]["low"] is None
    assert [command.count("seed=0,1,2") for _, command in steps] == [1, 1]
    assert [why[:11] for why, _ in steps] == ["Run 3 seeds", ""]  # the reason once


def test_what_is_open_gets_the_number_of_seeds_that_would_show_the_margin(writer, chosen):
    w = writer(n_examples=1500, noise=(1.0, 0.06, 0.1, 0.9))
    w.grid(("lora", "dora"), (8,), range(3))
    _, steps = chosen(w, margin=0.02)
    (why, first), *_ = steps
    assert "dora is undecided: about" in why and "show a difference of 0.02" in why
    needed = int(why.split("about ")[1].split()[0])
    assert f"seed={','.join(map(str, range(needed)))}" in first
    assert f"{2 * (needed - 3)} more runs" in why


def test_where_no_number_of_seeds_helps_no_command_is_given(writer, chosen):
    w = writer(n_examples=60)
    w.grid(("lora", "dora"), (8,), range(4))
    ((why, command),) = chosen(w, margin=0.005)[1]
    assert command == "" and "take a larger test set" in why


def test_runs_that_differ_in_the_variant_alone_share_a_command(writer, chosen):
    w = writer()
    for variant in ("lora", "dora"):
        command = f"python run.py variant={variant} r=8 seed=0 study=mine"
        w.run(w.spec(variant, 8, 0), command=command)
    ((_, command),) = chosen(w)[1]
    assert command == "python run.py -m variant=lora,dora r=8 seed=0,1,2 study=mine"
