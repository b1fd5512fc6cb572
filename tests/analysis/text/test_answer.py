"""What the first lines of a report say: the truth where runs are lost, and where nothing can be told."""

import re

import pytest

from analysis.compare import comparison, verdicts
from analysis.figures.overview import metric_title
from analysis.page import content, render
from analysis.runs import cells, load
from analysis.text import answer


@pytest.fixture
def said():
    """A function that reads a study and gives its answer: (headline, all its sentences as one text)."""

    def say(w):
        study = load.read(w.root)
        table = cells.cells(study)
        found = answer.answer(study, table, verdicts.verdicts(study, table))
        return found.headline, " ".join(point.text for point in found.points)

    return say


def test_a_variant_of_which_every_run_diverged_is_named(writer, said):
    w = writer()
    w.grid(("lora",), (8,), range(3))
    for seed in range(3):
        w.run(w.spec("dora", 8, seed), status="diverged")
    headline, text = said(w)
    assert "lora at rank 8 reached" in headline
    assert "no second cell with results" in text
    assert "Of 6 runs 3 have no result: 3 of dora (diverged)." in text


def test_a_lead_with_more_failed_runs_is_a_lead_but_not_better(writer, said, judged):
    w = writer(n_examples=800)
    w.grid(("lora", "dora"), (8,), range(4), effects={"dora": 0.15})
    w.run(w.spec("lora", 8, 4), 0.71), w.run(w.spec("dora", 8, 4), status="oom")
    headline, text = said(w)
    assert headline == "dora came out ahead of lora with more failed runs."
    assert "not called better, since more of its runs failed or diverged (1, against 0 of lora)" in text
    assert "no significant difference" not in text.lower()
    assert judged(w)[0]["dora", 8]["verdict"] == "inconclusive"


def test_an_interval_beside_zero_that_does_not_survive_holm_is_explained(writer, said, judged):
    w = writer(n_examples=300)
    others = [f"v{i}" for i in range(8)]
    w.grid(("lora", "dora", *others), (8,), range(4), effects={"dora": 0.05})
    row = judged(w)[0]["dora", 8]
    assert row["p"] < 0.05 < row["p_adjusted"]
    _, text = said(w)
    (sentence,) = re.findall(r"No significant difference between dora.*?detectable effect is \S+", text)
    assert "one of 9 comparisons: adjusted for them, p = " in sentence
    least = float(re.search(r"effect is ([\d.]+\d)", sentence)[1])
    assert least > row["smallest_detectable"]  # which is that of the comparison by itself


def metric(name, value):
    return {
        "primary": {"metric": name, "goal": "max"},
        "metrics": {f"test/{name}": value, f"validation/{name}": value},
    }


@pytest.mark.parametrize(
    "record, text",
    [
        (lambda value: metric("bleu", value), "bleu has no scores by example whose mean it is"),
        (lambda value: {"metrics": {"validation/accuracy": value}}, "results on validation alone"),
    ],
    ids=["no mean", "validation"],
)
def test_without_scores_by_example_the_reason_and_the_remedy_are_said(writer, said, judged, record, text):
    w = writer()
    for seed, (plain, other) in enumerate([(0.60, 0.71), (0.61, 0.69), (0.62, 0.73)]):
        w.run(w.spec("lora", 8, seed), predictions=False, **record(plain))
        w.run(w.spec("dora", 8, seed), predictions=False, **record(other))
    headline, sentences = said(w)
    assert judged(w)[0]["dora", 8]["verdict"] == "inconclusive"
    assert headline == "dora shows no significant difference from lora."
    assert f"That is no verdict: {comparison.BLIND}, since" in sentences and text in sentences


def test_runs_that_differ_in_code_are_said_to_do_so(writer, said):
    w = writer()
    for seed in range(3):
        w.run(w.spec("lora", 8, seed))
        w.run(w.spec("dora", 8, seed), env=w._env() | {"code_sha256": "beef" * 16})
    assert said(w)[0] == "Nothing can be compared: the runs of lora and the others differ in code."


def test_a_difference_of_any_size_is_shown(writer, said):
    w = writer()
    for seed, (plain, other) in enumerate([(1.2e-4, 1.0e-4), (1.3e-4, 0.9e-4), (1.1e-4, 1.0e-4)]):
        for name, value in (("lora", plain), ("dora", other)):
            told = metric("loss", value) | {"primary": {"metric": "loss", "goal": "min"}}
            w.run(w.spec(name, 8, seed), predictions=False, **told)
    assert "No significant difference between dora and lora at rank 8: +2.3e-05 (" in said(w)[1]


def test_the_report_says_the_command_that_makes_it_again_and_never_nan(writer):
    w = writer(n_examples=300)
    w.grid(("lora", "dora"), (4, 8), range(3))
    for seed in range(3):
        w.run(w.spec("lora", 16, seed)), w.run(w.spec("dora", 16, seed), status="diverged")
    study = load.read(w.root, pool=True)
    table = cells.cells(study)
    found = verdicts.verdicts(study, table, baseline="dora", margin=0.02)
    told = content.collect(study, table, found, [], pool=True) | {"images": False, "ranks": []}
    text = render.markdown(told)
    assert f"python -m analysis.report runs/{study.name} --baseline dora --margin 0.02 --pool" in text
    assert not re.search(r"\b(nan|NaN|None)\b", text)
    assert "3 runs of dora failed or diverged" in text


def test_metrics_are_spelled_as_papers_spell_them():
    spelled = {
        "rouge_l": "Test ROUGE-L",
        "bleu_lowercase": "Test lower-case BLEU",
        "matthews": "Test Matthews correlation",
        "token_f1": "Test token F1",
        "exact_match": "Test exact match",
        "lm_eval/arc_easy/acc": "lm_eval/arc_easy/acc",
    }
    assert {name: metric_title({"metric": name, "split": "test"}) for name in spelled} == spelled
