"""Results of others: the defects that were put in are found, and a clean study raises no alarm."""

import pytest

from analysis import report
from analysis.foreign import rules

FORMATS = ["csv", "wandb", "wandb-json", "peft"]


def written(published, form):
    """The files of a study in a format, and the words that a reader would add."""
    if form == "wandb-json":
        return published.wandb("json"), "wandb"
    words = {"peft": ["--examples", "20000"]}.get(form, [])  # PEFT's files do not say it
    return getattr(published, form)(), form, *words


@pytest.mark.parametrize("form", FORMATS)
def test_a_clean_study_raises_no_alarm_and_its_effect_is_found(published, audited, form):
    # files of PEFT do not tell several tasks apart
    published.clean(tasks=("gsm8k",) if form == "peft" else ("rte", "mrpc"))
    code, text, broken = audited(*written(published, form), "--margin", "0.03")
    assert code == 0
    assert broken == (["Each variant was compared on two datasets or more"] if form == "peft" else [])
    assert "dora is better than lora" in text.replace("dora-gsm8k", "dora").replace("lora-gsm8k", "lora")
    assert "rslora-gsm8k and" in text if form == "peft" else "rslora and lora are equivalent" in text


def test_the_report_of_imported_results_builds(published, audited, tmp_path):
    audited(*written(published.clean(), "csv"))
    page = report.build(tmp_path / "study", images_too=False)
    text = page.with_name("report.md").read_text()
    assert "independent samples" in text and "dora" in text
    assert "python run.py" not in text  # nobody can repeat them so


def test_one_run_a_side_is_no_verdict(published, audited):
    for method, test in {"lora": 0.48, "miss": 0.5, "vera": 0.3}.items():
        published.on_test(method=method, rates=(1e-4,), seeds=(0,), score=test + 0.03)
    _, text, broken = audited(published.csv(), "csv")
    assert "What holds (0 of 2)\n  nothing" in text
    assert "2 comparisons rest on one run a side" in text
    # by hand: se = sqrt(.48*.52/1319 + .5*.5/1319) = .0194, and .02 is between one and 1.96 of them
    assert "in 1 of them the choice of test examples alone could explain the difference (95%), in 0" in text
    # (.48 - .3) / 1.96 / sqrt(2) = .065
    assert "1 is further behind lora, which holds only if the SD between seeds is below 0.065" in text
    assert "Every comparison rests on 5 paired seeds or more" in broken


def test_rates_chosen_on_the_test_set_are_found(published, audited):
    for method in ("lora", "dora"):
        published.on_test(method=method)
    _, text, broken = audited(published.csv(), "csv")
    assert "No learning rate was chosen by test results, as far as the files show" in broken
    assert "the best of 3 rates is named by its test score in 2 cases" in text
    assert "What holds (0 of 1)" in text


def test_unequal_tuning_is_found_and_blocks_better(published, audited):
    published.clean()
    published.runs = [r for r in published.runs if r["method"] != "lora" or r["lr"] == 0.002]
    _, text, broken = audited(published.csv(), "csv")
    assert "The learning rate of every variant was tuned, with the same number of points" in broken
    assert "dora is better than lora" not in text


def test_dropped_runs_are_found(published, audited):
    for method in ("lora", "dora", "pissa"):
        published.on_test(method=method)
    gone = published.runs[-1]
    published.runs.remove(gone)  # pissa at its highest rate
    _, text, broken = audited(published.csv(), "csv")
    assert "No run was dropped: every rate has as many runs as the others" in broken
    assert "runs are missing for pissa on gsm8k at 0.004 (2 of 3)" in text


def test_a_rate_that_one_method_lacks_is_found(published, audited):
    for method in ("lora", "dora", "pissa"):
        published.on_test(method=method)
    published.runs = [r for r in published.runs if (r["method"], r["lr"]) != ("pissa", 0.004)]
    _, text, _ = audited(published.csv(), "csv")
    assert "runs are missing for pissa on gsm8k at 0.004 (none)" in text


def test_diverged_runs_count_as_failures(published, audited):
    published.clean()
    dora = [r for r in published.runs if r["method"] == "dora" and "test" in r]
    for run in dora[:2]:
        del run["test"]
        run["state"] = "crashed"
    _, text, broken = audited(published.wandb(), "wandb")
    assert "No run failed, diverged, is unfinished or missing" in broken
    assert "2 failed or diverged" in text


def test_a_method_that_does_nothing_is_found_by_its_scores(published, audited):
    published.on_test(method="lora").on_test(method="dora", score=0.52)
    for run in [r for r in published.runs if r["method"] == "lora"]:
        published.runs.append(run | {"method": "adalora"})
    _, text, broken = audited(published.csv(), "csv")
    assert "Every method was active" in broken
    assert "adalora and lora have the same score in every one of 9 runs" in text


@pytest.mark.parametrize(
    ("pattern", "finding"),
    [
        (None, "AdaLoRA never allocated a rank"),
        ({"q": [True, True], "v": [True, True]}, "AdaLoRA's ranks never changed"),
        ({"q": [True, False], "v": [True, True]}, None),
    ],
)
def test_an_adalora_whose_ranks_never_changed_is_found(published, audited, pattern, finding):
    def change(content, run):
        if run["method"] == "adalora":
            content["run_info"]["peft_config"] |= {"peft_type": "ADALORA", "rank_pattern": pattern}

    published.on_test(method="lora", rates=(1e-4,), seeds=(0,)).on_test(
        method="adalora", rates=(1e-4,), seeds=(0,), score=0.45
    )
    _, text, broken = audited(published.peft(change), "peft")
    assert ("Every method was active" in broken) is (finding is not None)
    assert finding is None or finding in text


def test_a_dora_whose_flag_is_off_is_found(published, audited):
    def change(content, run):
        content["run_info"]["peft_config"]["use_dora"] = False

    published.on_test(method="lora", rates=(1e-4,), seeds=(0,)).on_test(
        method="dora", rates=(1e-4,), seeds=(0,), score=0.45
    )
    _, text, _ = audited(published.peft(change), "peft")
    assert "dora-gsm8k: its configuration has use_dora off" in text


def test_one_method_under_two_names_is_found(published, audited):
    def change(content, run):
        content["run_info"]["experiment_name"] += f"-lr{run['lr']:g}"

    published.on_test(method="lora", rates=(1e-4, 1e-3), seeds=(0,))
    _, text, broken = audited(published.peft(change), "peft")
    assert "No method was tested at several rates under several names" in broken
    assert "differ in the learning rate alone" in text


def test_nothing_learned_and_odd_versions_are_found(published, audited):
    def change(content, run):
        if run["method"] == "vera":
            content["meta_info"]["package_info"]["peft-version"] = "0.20.0"

    published.on_test(method="lora", rates=(1e-4,), seeds=(0,))
    published.on_test(method="vera", rates=(1e-4,), seeds=(0,), score=0.04, spread=0.01)
    assert published.runs[-1]["test"] == 0.0
    _, text, broken = audited(published.peft(change), "peft")
    assert "the score is exactly 0 for vera-gsm8k" in text
    assert "All results come from the same versions and device" in broken
    assert "peft (0.21.0: 1, 0.20.0: 1)" in text


def marked(text):
    """The rules of a checklist by their mark: x met, ? not known, a blank broken."""
    lines = [line for line in text.splitlines() if line[:1] == "[" and line[2:4] == "] "]
    return {mark: [line[4:] for line in lines if line[1] == mark] for mark in "x? "}


def test_what_a_file_does_not_tell_is_neither_met_nor_broken(tmp_path, audited):
    """Methods and scores alone: no rates, seeds, parameters, settings or ends of runs."""
    rows = [f"{m},rte,{0.7 + 0.01 * i + e}" for m, e in (("lora", 0.0), ("dora", 0.002)) for i in range(5)]
    path = tmp_path / "bare.csv"
    path.write_text("\n".join(["method,task,accuracy", *rows]))
    _, text, _ = audited([path], "csv", "--examples", "500")
    found = marked(text)
    assert set(found["?"]) == {
        "All seeds were requested at once, before any result could be seen",
        "The learning rate of every variant was tuned, with the same number of points",
        "No chosen value lies on the edge of its grid",
        "Rates were chosen with other seeds than those that are compared",
        "The test set was read for the chosen values alone",
        "Each variant was also compared at an equal number of trainable parameters",
        "No cells of different scale times rank share an untuned learning rate",
        "No run failed, diverged, is unfinished or missing",
        "No result is that of a run that gives one answer to all examples",
        "Every cell has the seeds that the others have",
        "No run deviates from what was requested",
        "No learning rate was chosen by test results, as far as the files show",
        "No method was tested at several rates under several names",
        "No run was dropped: every rate has as many runs as the others",
        "Every method was active",
        "All results come from the same versions and device",
    }
    assert "Every comparison rests on 5 paired seeds or more" in found["x"]
    assert "Each variant was compared on two datasets or more" in found[" "]
    assert f"{len(found['x'])} of {sum(map(len, found.values()))} met, 16 not known" in text
    assert "found: their numbers are not known for dora" in text and "to know it" not in text
    page = report.build(tmp_path / "study", images_too=False)
    assert "16 not known" in page.read_text() and '<li class="unknown">' in page.read_text()
    assert "- [?] Every method was active" in page.with_name("report.md").read_text()


def test_parameters_that_are_known_and_apart_are_broken_and_equal_ones_met(published, audited, tmp_path):
    rule = "Each variant was also compared at an equal number of trainable parameters"
    for i, (params, mark) in enumerate(
        (((100, 100, 101), "x"), ((100, 150, 101), " "), ((100, "", ""), "?"))
    ):
        published.runs.clear()
        for method, own in zip(("lora", "dora", "rslora"), params, strict=True):
            published.on_test(method=method, rates=(1e-4,), params=own)
        _, text, _ = audited(published.csv(), "csv", "--out", str(tmp_path / f"s{i}"))
        assert rule in marked(text)[mark]


def test_remedies_for_results_of_others_are_of_rules_that_there_are(published, audited):
    published.on_test(method="lora", rates=(1e-4,))
    published.on_test(method="dora", rates=(1e-4,))
    _, text, _ = audited(published.csv(), "csv")
    assert rules.REMEDIES.keys() <= {line[4:] for line in text.splitlines() if line.startswith("[")}
    assert "hydra" not in text and "seed=" not in text and "to know it" not in text


def test_a_report_on_rates_chosen_on_the_test_set_claims_neither_validation_nor_who_is_level(
    published, audited, tmp_path
):
    for method in ("lora", "dora"):
        published.on_test(method=method, rates=(1e-4, 2e-4))
    audited(published.csv(), "csv")
    page = report.build(tmp_path / "study", images_too=False)
    text = page.with_name("report.md").read_text()
    assert (
        "tuned equally, with 2 points for each cell." in text and "on validation" not in text.split("##")[0]
    )
    assert "textbf" not in page.with_name("results.tex").read_text()


def test_without_rates_and_examples_neither_is_said_nor_is_any_power_claimed(tmp_path, audited):
    rows = [f"{m},t,{i},{base + 0.1 * i}" for m, base in (("lora", 0.4), ("dora", 0.41)) for i in range(4)]
    path = tmp_path / "bare.csv"
    path.write_text("\n".join(["method,task,seed,accuracy", *rows]))
    _, text, broken = audited([path], "csv")
    assert "dora and lora: " in text and "nan" not in text and "at learning rate" not in text
    assert "The study could have shown a difference as small as the margin" in broken
