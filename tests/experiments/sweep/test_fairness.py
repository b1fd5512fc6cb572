"""What would make a comparison unfair is found, with its numbers, and nothing else is."""

import dataclasses

import pytest

from experiments.sizing.counts import count, effective_scale
from experiments.sizing.skeleton import skeleton as skeleton_of
from experiments.spec import RunSpec, Train
from experiments.sweep.plan import comparison_notes
from experiments.sweep.preview.fairness import Known, findings

SPEC = RunSpec(
    study="s", variant="lora", method="adapters", r=8, alpha=16.0, targets="qv",
    axes={"scaling": "alpha_over_r"}, options={}, model="m", model_options={}, dataset="d",
    dataset_options={},
    lr=0.01, train=Train(), seed=0,
)  # fmt: skip
THREE = "seed=0,1,2"
OWN = {"lora": 0.004, "dora": 0.004, "rslora": 0.004, "adalora": 0.02, "qlora": 0.002, "full": 0.0005}


@pytest.fixture
def found(cells_of):
    """(level, text) of what is found in a command, the texts whole."""

    def find(command, **known):
        return [
            (f.level, f"{f.what} {f.why} {f.remedy}") for f in findings(cells_of(command), Known(**known))
        ]

    return find


@pytest.fixture
def sized(cells_of, tiny_bert):
    """As `found`, on a tiny BERT whose sizes are known."""

    def find(command):
        from experiments.sweep.preview.facts import Facts

        facts = Facts()
        facts.task = lambda spec: dataclasses.replace(_task, kind="classification")
        specs = cells_of(f"{command} model=hf model.path={tiny_bert}")
        return [
            (f.level, f"{f.what} {f.remedy}") for f in findings(specs, Known(facts.count, facts.rank_for))
        ]

    from experiments.sweep.preview.facts import Task

    _task = Task("classification", 3, 10, 10, 10)
    return find


def about(found, word):
    return [(level, text) for level, text in found if word in text]


@pytest.mark.parametrize(
    ("scaling", "options", "scale"),
    [
        ("alpha_over_r", {}, 2.0),
        ("alpha_over_sqrt_r", {}, 16 / 8**0.5),
        ("alpha_over_r", {"init_r_ratio": 1.5}, 16 / 12),
        ("another_rule", {}, None),
    ],
)
def test_the_effective_scale_is_that_of_the_start(scaling, options, scale):
    axes = {"scaling": scaling, "delta": "adalora" if options else "lora"}
    assert effective_scale(dataclasses.replace(SPEC, axes=axes, options=options)) == scale


def test_enough_seeds_alone_need_no_note(cells_of):
    assert comparison_notes(cells_of("variant=lora,dora,full seed=0,1,2")) == []


def test_one_cell_has_nothing_to_compare(found):
    assert found("variant=dora") == []
    assert findings([]) == []


@pytest.mark.parametrize(
    ("seeds", "level", "text"),
    [
        ("0", "problem", "1 seed per cell"),
        ("0,1", "problem", "2 seeds per cell"),
        ("0,1,2", "note", "p = 0.25"),
        ("0,1,2,3,4", "note", "p = 0.0625"),
    ],
)
def test_too_few_seeds_are_said(found, seeds, level, text):
    ((their, sentence),) = about(found(f"variant=lora,dora seed={seeds}"), "seed")
    assert their == level and text in sentence


def test_six_seeds_are_enough_for_every_test(found):
    assert about(found("variant=lora,dora seed=range(0,6)"), "sign-flip") == []


def test_one_rate_where_scale_times_rank_differs_is_said(cells_of):
    (note,) = comparison_notes(cells_of(f"variant=dora,lora,rslora r=4,16 lr=0.001 {THREE}"))
    assert "lr=0.001 for dora, lora s r=16, 16 at r=4, 16; rslora s r=32, 64 at r=4, 16" in note
    assert comparison_notes(cells_of(f"variant=dora,lora r=4,16 lr=0.001 {THREE}")) == []
    assert comparison_notes(cells_of(f"variant=dora,lora,rslora r=4,16 {THREE}")) == []


def test_tuned_rates_need_no_word_on_scales(found):
    told = found(f"variant=dora,lora r=4,16 lr=0.001,0.002,0.005 {THREE}")
    assert about(told, "scale times rank") == []
    ((level, text),) = about(told, "learning rates are tried")
    assert level == "warning" and "Up to 3" in text and "hydra/sweeper=fair" in text


def test_a_scale_that_is_the_same_at_several_ranks_has_another_best_rate_at_each():
    specs = [dataclasses.replace(SPEC, r=r, alpha=2.0 * r, seed=s) for r in (4, 8, 16) for s in range(3)]
    (note,) = comparison_notes(specs)
    assert "s r=8, 16, 32 at r=4, 8, 16" in note


def test_runs_that_only_tune_are_not_tested(cells_of):
    specs = cells_of("variant=dora,lora lr=0.001,0.002,0.005 seed=0,1,2")
    tuning = [dataclasses.replace(spec, phase="tune") for spec in specs]
    assert not any("are tried per cell" in f.what for f in findings(tuning))


def test_targets_that_differ_by_default_are_said(found):
    ((level, text),) = about(found(f"variant=lora,dora,qlora {THREE}"), "different layers")
    assert level == "warning" and "lora, dora qv; qlora all" in text and "targets=..." in text
    assert about(found(f"variant=lora,qlora targets=qv,all {THREE}"), "different layers") == []


def test_training_that_differs_is_said(found):
    ((_, text),) = about(found("train.steps=100,150 train.clip=0,1"), "trained differently")
    assert "train.steps 100, 150; train.clip 0, 1" in text


def test_one_rate_for_variants_with_rates_of_their_own(found):
    ((level, text),) = about(found(f"variant=lora,rslora lr=0.002 {THREE}", default_lr=OWN), "is given to")
    assert level == "warning" and "(lora 0.004; rslora 0.00238)" in text
    assert about(found(f"variant=lora,dora lr=0.002 {THREE}", default_lr=OWN), "is given to") == []
    assert about(found(f"variant=lora,rslora {THREE}", default_lr=OWN), "is given to") == []


def test_default_rates_on_another_recipe(found, cells_of):
    known = {"default_lr": OWN, "recipe": cells_of("variant=lora")[0]}
    words = f"variant=lora,dora {THREE}"
    changed = found(f"{words} train.steps=900 train.batch_size=32", **known)
    ((level, text),) = about(changed, "were chosen for")
    assert level == "warning" and "150 steps of 16; here train.steps=900; train.batch_size=32" in text
    assert about(found(words, **known), "were chosen for") == []
    assert about(found(f"{words} train.steps=900 lr=0.01", **known), "were chosen for") == []


def test_rslora_at_one_rank_is_lora_at_another_alpha(found):
    ((level, text),) = about(found(f"variant=lora,rslora r=9 {THREE}"), "single rank")
    assert level == "warning" and "alpha=48 instead of 16" in text  # 16 sqrt(9)
    assert about(found(f"variant=lora,rslora r=9,16 {THREE}"), "single rank") == []


def test_a_rank_that_shrinks_is_told_with_its_scale(found):
    ((level, text),) = about(found(f"variant=lora,adalora r=8 {THREE}"), "starts with")
    assert level == "note" and "r=8 starts at 12 (s=1.33)" in text


def test_budgets_that_differ_are_told_with_the_rank_that_matches(sized):
    """q and v of two layers of width 24: LoRA 192 r, DoRA 192 r + 96, AdaLoRA 196 ceil(1.5 r)."""
    told = sized(f"variant=lora,dora,adalora r=8 {THREE}")
    ((level, text),) = about(told, "dora trains")
    assert level == "note" and "1,632 adapter parameters at r=8, lora 1,536 at r=8 (+6%)" in text
    assert "r=7 of dora comes nearest (-6%)" in text
    ((level, text),) = about(told, "adalora trains")
    assert level == "warning" and "2,352" in text and "(+53%)" in text and "r=5 of adalora" in text


def test_matched_cells_need_no_other_rank(sized):
    told = sized(f"variant=lora,dora r=8 match=parameters {THREE}")
    ((level, text),) = about(told, "dora trains")
    assert level == "note" and "1,440 adapter parameters at r=7" in text and "No other rank" in text


def test_a_budget_below_rank_one_is_told(sized):
    ((level, text),) = about(sized(f"variant=lora,qlora r=1 {THREE}"), "qlora trains")
    assert level == "warning" and "3.3 times" in text and "No rank of qlora" in text


def test_equal_budgets_need_no_word(sized):
    assert about(sized(f"variant=lora,rslora,loraplus r=4 {THREE}"), "trains") == []


def test_rates_by_role_are_those_applied(sized):
    words = f"variant=dora,loraplus lr=0.001 train.weight_decay=0.1 train.head_lr=0.004 {THREE}"
    ((level, text),) = about(sized(words), "as applied")
    assert level == "note"
    assert "dora: A, B lr 0.001 decay 0.1, magnitude lr 0.001, head lr 0.004 decay 0.1" in text
    assert "loraplus: A lr 0.001 decay 0.1, B lr 0.008 decay 0.1, head" in text


def test_problems_come_before_warnings_and_notes(sized):
    levels = [level for level, _ in sized("variant=lora,adalora,qlora r=1,4 lr=0.01")]
    assert levels == sorted(levels, key=["problem", "warning", "note"].index)
    assert set(levels) == {"problem", "warning", "note"}


def test_a_sweep_says_problems_and_warnings_only(cells_of):
    specs = cells_of("variant=lora,adalora seed=0,1,2")
    assert any(f.level == "note" for f in findings(specs))
    assert comparison_notes(specs) == [str(f) for f in findings(specs) if f.level != "note"]


def test_sizes_come_from_the_model(cells_of, tiny_bert):
    (spec,) = cells_of(f"variant=lora r=8 model=hf model.path={tiny_bert}")
    assert count(spec, skeleton_of(spec), 3).adapter == 1536
