"""The command that fits default learning rates: from records to its two tables."""

import json

import numpy as np
import pytest

from analysis.defaults import FITTED, GIVEN, HEAD, fitted_rows, main, points, regret_rows
from analysis.stats.best_rate import FORMS

RATES = 0.0003 * 2.5 ** np.arange(6)


def made(variant, r, lr, seed, loss, *, dataset="a", status="completed", test=0.0):
    rule = "alpha_over_sqrt_r" if variant == "rslora" else "alpha_over_r"
    return {
        "schema": 1, "run_id": f"{variant}-{r}-{lr:g}-{dataset}-{seed}", "study": "s", "status": status,
        "spec": {
            "variant": variant, "r": r, "alpha": 16.0, "lr": lr, "seed": seed, "model": "minilm",
            "dataset": dataset, "targets": "qv", "train": {"steps": 50}, "variant_axes": {"scaling": rule},
            "variant_options": {"init_r_ratio": 1.5} if variant == "adalora" else {},
        },
        "primary": {"metric": "accuracy", "goal": "max"},
        "metrics": {"validation/loss": loss, "validation/accuracy": 0.5, "test/loss": test},
    }  # fmt: skip


def study(best, *, dataset="a", variant="lora", seeds=(100, 101, 102)):
    """Runs whose losses are lowest at c / (s r), with the seeds' own levels."""
    for r in (4, 16, 64):
        product = 16 * np.sqrt(r) if variant == "rslora" else 16
        for lr in RATES:
            for seed in seeds:
                log = 0.02 * np.log2(lr * product / best) ** 2
                yield made(variant, r, lr, seed, (seed - 99) * np.exp(log), dataset=dataset, test=1 / lr)


def test_points_are_means_over_seeds_and_a_lost_seed_makes_one_infinite():
    found = [made("lora", 4, 0.001, 100, 2.0), made("lora", 4, 0.001, 101, 3.0)]
    found += [made("lora", 4, 0.01, 100, 2.0), made("lora", 4, 0.01, 101, None, status="diverged")]
    found += [made("adalora", 4, 0.01, 100, 1.0), made("full", None, 0.01, 100, 1.0)]
    made_of = points(found)
    assert set(made_of) == {"lora", "adalora"}
    assert made_of["lora"].loss.tolist() == [2.5, np.inf] and made_of["lora"].scale.tolist() == [4, 4]
    start = made_of["adalora"]
    assert (start.rank.tolist(), start.scale.tolist()) == ([6], [16 / 6])  # the rank at which it starts


def test_variants_that_differ_in_scale_alone_are_pooled_too():
    found = points([*study(0.05), *study(0.05, variant="rslora"), *study(0.05, variant="adalora")])
    assert set(found) == {"lora", "rslora", "lora + rslora", "adalora"}
    assert len(found["lora + rslora"].loss) == 2 * len(found["lora"].loss)
    assert len(set(found["lora + rslora"].group)) == 6


def test_each_form_gets_a_row_and_the_true_one_costs_next_to_nothing():
    tried = points([*study(0.05, variant="rslora"), *study(0.05, dataset="b", variant="rslora")])
    rows = {row[1]: dict(zip(HEAD, row, strict=True)) for row in fitted_rows(tried)}
    assert set(rows) == {*FORMS}
    c, _, rule = rows["s r"]["lr"].partition(" ")
    assert float(c) == pytest.approx(0.05, rel=0.05) and rule == "/ (s r)"
    assert rows["s r"]["c of each task alone"] == f"a minilm 50 steps {c}; b minilm 50 steps {c}"
    assert float(rows["s r"]["largest"]) < 0.1 < 2 < float(rows["constant"]["largest"])


def test_each_task_and_rank_gets_the_best_rate_and_the_regret_of_the_fitted_one_seen_or_unseen():
    tried = points([*study(0.05), *study(0.05, dataset="b")])
    unseen = study(0.05, dataset="c", seeds=(107,))
    rows = list(regret_rows(tried, [*study(0.05), *unseen]))
    assert [(row[1], row[2][0], row[3]) for row in rows] == [
        (FITTED, t, r) for t in "ac" for r in ("4", "16", "64")
    ]
    for *_, best, at, chord, by_parabola in rows:
        assert float(best.split()[0]) == pytest.approx(0.05 / 16, rel=0.05)
        assert float(at) == pytest.approx(0.05 / 16, rel=0.03)
        assert float(chord.split()[0]) < 0.9 and float(by_parabola.split()[0]) < 0.1


def test_the_error_of_a_regret_is_that_of_its_mean_over_seeds():
    by_seed = {107: 0.0035, 108: 0.0046, 109: 0.0061}  # whose minima differ; the losses have one level
    unseen = []
    for seed, best in by_seed.items():
        for lr in RATES:
            unseen.append(made("lora", 4, lr, seed, 1 + 0.02 * np.log2(lr / best) ** 2))
    at = RATES[2]  # tried: no interpolation
    ((*_, chord, _),) = (
        row for row in regret_rows(points(study(0.05)), unseen, {"lora": at}) if row[1] == GIVEN
    )
    value, error = (float(number) / 100 for number in chord.split(" ± "))
    losses = {lr: np.array([1 + 0.02 * np.log2(lr / best) ** 2 for best in by_seed.values()]) for lr in RATES}
    lowest = min(losses.values(), key=np.mean)
    assert value == pytest.approx(losses[at].mean() / lowest.mean() - 1, abs=1e-4)
    paired = (losses[at] / lowest).std(ddof=1) / np.sqrt(3)
    assert error == pytest.approx(paired, rel=0.1)


def test_the_command_reads_studies_and_says_when_there_is_nothing(tmp_path, capsys):
    for name, dataset in (("seen", "a"), ("new", "c")):
        for content in study(0.05, dataset=dataset):
            folder = tmp_path / name / content["run_id"]
            folder.mkdir(parents=True)
            (folder / "record.json").write_text(json.dumps(content))
    unseen = ["--unseen", str(tmp_path / "new"), "--rates", "lora=0.003"]
    assert main([str(tmp_path / "seen"), *unseen]) == 0
    shown = capsys.readouterr().out
    assert "| lora | s r |" in shown and "| lora | fitted | a minilm 50 steps | 4 |" in shown
    assert "| lora | given | c minilm 50 steps | 64 | 0.0031 ± " in shown
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
    assert "+experiment=default_lr" in capsys.readouterr().err
