"""Advice on ranks, tuning tables, datasets taken together, the reviewer's checklist."""

import json

import numpy as np
import pytest

from analysis import audit, report
from analysis.compare import datasets, verdicts
from analysis.runs import cells, load
from analysis.text import ranks, tuning


@pytest.fixture
def study(writer):
    """A function that reads what a writer wrote: (study, cells, verdicts)."""

    def make(w, **options):
        read = load.read(w.root)
        table = cells.cells(read)
        return read, table, verdicts.verdicts(read, table, **options)

    return make


def advice(study, w, margin=0.01):
    read, table, _ = study(w)
    return ranks.advise(read, table, margin=margin)


def rewrite(folder, training, validation):
    """Replace the curves of a run by two functions of the step."""
    rows = [{"step": s, "loss": training(s)} for s in range(5, 151, 5)]
    rows += [{"step": s, "validation/loss": validation(s)} for s in range(15, 151, 15)]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_rank_whose_training_stalls_is_too_small(writer, study):
    w = writer()
    for record in w.grid(("lora",), (2, 8), range(3)):
        floor = 1.5 if record["spec"]["r"] == 2 else 0.5
        rewrite(w.root / record["run_id"], lambda s, f=floor: f + np.exp(-s / 20), lambda s: 1.0 - s / 1000)
    notes = advice(study, w)[0].notes
    assert len(notes) == 1 and notes[0].startswith("rank 2 looks too small")


def test_a_rank_whose_validation_turns_up_is_too_large(writer, study):
    w = writer()
    for record in w.grid(("lora",), (2, 64), range(3)):
        bend = 0.0 if record["spec"]["r"] == 2 else 1.0
        curve = lambda s, b=bend: 1.0 - s / 1000 + b * max(0, s - 60) / 100  # noqa: E731
        rewrite(w.root / record["run_id"], lambda s: np.exp(-s / 60), curve)
    notes = advice(study, w)[0].notes
    assert len(notes) == 1 and notes[0].startswith("rank 64 looks too large") and "step 60" in notes[0]


def test_the_smallest_equivalent_rank_is_found(writer, study):
    w = writer(n_examples=4000, noise=(1.0, 0.0, 0.0, 0.1))
    for r, accuracy in ((2, 0.6), (8, 0.7), (32, 0.7)):
        for seed in range(4):
            w.run(w.spec("lora", r, seed), accuracy)
    for path in w.root.glob("lora-r32-*/record.json"):
        content = json.loads(path.read_text())
        content["metrics"]["validation/accuracy"] = 0.75
        path.write_text(json.dumps(content))
    found = advice(study, w, margin=0.02)[0]
    assert (found.best, found.sufficient) == (32, 8)
    assert "8 is sufficient" in found.next


def test_with_few_seeds_no_rank_is_called_sufficient(writer, study):
    w = writer()
    w.grid(("lora",), (4, 8))
    found = advice(study, w)[0]
    assert found.sufficient is None and "at least 3 seeds" in found.next


def tuned(w, seeds=(0, 1, 2), edge=False):
    """A study with tuned rates for lora and dora; with `edge`, dora's best rate is the last one."""
    for variant in ("lora", "dora"):
        for k, lr in enumerate((1e-4, 1e-3, 1e-2)):
            score = [0.5, 0.7, 0.6][k] if not (edge and variant == "dora") else 0.5 + 0.1 * k
            w.run(w.spec(variant, 8, 100, lr=lr), phase="tune", metrics={"validation/accuracy": score})
        best = 1e-2 if edge and variant == "dora" else 1e-3
        for seed in seeds:
            w.run(w.spec(variant, 8, seed, lr=best), phase="confirm")


def rates(study, w):
    _, table, found = study(w)
    return tuning.table(table, found.budgets)


def test_the_tuning_table_shows_choice_budget_and_width(writer, study):
    w = writer()
    tuned(w)
    row = rates(study, w)[0]
    assert (len(row["curve"]), row["chosen"], row["edge"], row["open"]) == (3, 1e-3, False, False)
    assert row["width"] == pytest.approx(0.05 + 0.1)
    assert row["expected"][0] == (1, pytest.approx(0.6))


def test_a_rate_chosen_on_the_edge_is_flagged_everywhere(writer, study):
    w = writer()
    tuned(w, edge=True)
    rows = {row["series"]: row for row in rates(study, w)}
    assert rows["dora"]["edge"] and not rows["lora"]["edge"]
    folder = report.build(w.root).parent
    assert "the best may lie beyond" in (folder / "report.html").read_text()
    assert (folder / "figures" / "learning_rates.svg").read_text().count("(edge)<") == 1


def test_variants_are_summed_up_over_datasets_without_mixing_them(writer, study):
    w = writer()
    for dataset, base in (("easy", 0.9), ("hard", 0.3)):
        w.grid(("lora", "dora"), (8,), range(4), base=base - 0.03, effects={"dora": 0.05}, dataset=dataset)
    row = datasets.table(study(w)[2].overall)[0]
    assert row["settings"] == 2 and row["seeds"] == 4
    assert 0.5 < row["low"] <= row["improvement"] <= row["high"] <= 1
    assert 0.3 < row["iqm_baseline"] < row["iqm"] < 0.95
    for name in ("iqm", "iqm_baseline"):
        low, high = row[f"{name}_interval"]
        assert low < row[name] < high


def test_the_checklist_of_a_careful_study_is_met(writer, study):
    w = writer(n_examples=3000, noise=(1.0, 0.0, 0.0, 0.1))
    for dataset in ("one", "two"):
        for variant in ("lora", "dora"):
            for lr in (1e-4, 1e-3, 1e-2):
                w.run(w.spec(variant, 8, 100, lr=lr, dataset=dataset), 0.7 - 0.1 * (lr != 1e-3), phase="tune")
            for seed in range(5):
                w.run(w.spec(variant, 8, seed, lr=1e-3, dataset=dataset), phase="confirm")
    for again in (0, 1):  # a noise floor beside it, at a rate that was not chosen
        w.run(w.spec("lora", 8, 0, lr=2e-3, dataset="one", **({"repeat": again} if again else {})))
    items = audit.audit(*study(w, margin=0.02))
    assert [item.question for item in items if item.met is False] == []
    (unknown,) = [item for item in items if item.met is None]
    assert unknown.question.startswith("All seeds were requested at once")
    text = audit.text(items)
    assert f"[?] {unknown.question}\n      found: no list of requested runs says it" in text
    assert text.endswith(f"{len(items) - 1} of {len(items)} met, 1 not known")


def test_the_checklist_of_a_careless_study_says_what_would_meet_it(writer, study):
    w = writer()
    w.grid()
    w.run(w.spec("rslora", 8, 0), status="diverged", deviations=["fell back to fp32"])
    w.run(w.spec("lora", 8, 0, alpha=32.0))  # at the rate of the others
    items = {item.question: item for item in audit.audit(*study(w))}
    seeds = items["Every comparison rests on 5 paired seeds or more"]
    assert not seeds.met and "seed=0,1,2,3,4" in seeds.remedy
    for start in ("No run failed", "The learning rate", "No run deviates", "No cells of different"):
        assert not next(item for question, item in items.items() if question.startswith(start)).met
    text = audit.text(list(items.values()))
    assert "[ ] No run failed" in text and "to meet it:" in text


def test_the_checklist_sees_a_changed_file(writer, study):
    w = writer()
    record = w.grid(ranks=(8,))[0]
    path = w.root / record["run_id"]
    content = json.loads((path / "record.json").read_text())
    (path / "record.json").write_text(json.dumps(content | {"files": {"history.jsonl": "0" * 64}}))
    assert not audit.audit(*study(w))[-1].met


def test_the_checklist_runs_from_the_command_line(writer, tmp_path, capsys):
    w = writer()
    w.grid(ranks=(8,))
    assert audit.main([str(w.root)]) == 0 and " met" in capsys.readouterr().out
    assert audit.main([str(tmp_path / "nowhere")]) == 2
