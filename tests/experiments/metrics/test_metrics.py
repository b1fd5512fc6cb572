"""The metrics against counts by hand and closed forms, through `evaluate` as a run calls it."""

import math
import os
import subprocess
import sys

import pytest

from experiments import metrics
from experiments.errors import UserError

GUESSES = [0, 0, 1, 1, 2, 2, 2, 0]
TRUTH = [0, 1, 1, 1, 2, 0, 2, 2]


def test_values_agree_with_counts_by_hand():
    values = metrics.compute(["accuracy", "macro_f1", "matthews"], GUESSES, TRUTH)
    # class 0: 1 hit of 3 guesses and 2 truths; class 1: 2 of 2 and 3; class 2: 2 of 3 and 3
    assert values["accuracy"] == 5 / 8
    assert values["macro_f1"] == pytest.approx((2 / 5 + 4 / 5 + 4 / 6) / 3, abs=1e-15)
    covariance = 5 * 8 - (3 * 2 + 2 * 3 + 3 * 3)
    spread = (64 - (9 + 4 + 9)) * (64 - (4 + 9 + 9))
    assert values["matthews"] == pytest.approx(covariance / math.sqrt(spread), abs=1e-15)


def test_two_classes_give_the_textbook_formula():
    tp, fp, fn, tn = 6, 2, 1, 5
    guesses = [1] * tp + [1] * fp + [0] * fn + [0] * tn
    truth = [1] * tp + [0] * fp + [1] * fn + [0] * tn
    phi = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    f1 = (2 * tp / (2 * tp + fp + fn) + 2 * tn / (2 * tn + fp + fn)) / 2
    assert metrics.compute("matthews", guesses, truth) == {"matthews": pytest.approx(phi, abs=1e-15)}
    assert metrics.compute("macro_f1", guesses, truth) == {"macro_f1": pytest.approx(f1, abs=1e-15)}


@pytest.mark.parametrize(
    ("guesses", "accuracy", "f1", "mcc"),
    [([0, 1, 2, 1], 1.0, 1.0, 1.0), ([1, 2, 0, 0], 0.0, 0.0, -0.5), ([1, 1, 1, 1], 0.5, 2 / 9, 0.0)],
    ids=["all right", "all wrong", "one class for all"],
)
def test_extremes_have_their_known_values(guesses, accuracy, f1, mcc):
    values = metrics.compute(("accuracy", "macro_f1", "matthews"), guesses, [0, 1, 2, 1])
    assert values["accuracy"] == accuracy
    assert values["macro_f1"] == pytest.approx(f1, abs=1e-15)
    assert values["matthews"] == pytest.approx(mcc, abs=1e-15)


def test_the_same_as_scikit_learn_on_random_classes():
    sklearn = pytest.importorskip("sklearn.metrics")
    import random

    draw = random.Random(0)
    truth = [draw.randrange(13) for _ in range(500)]
    guesses = [t if draw.random() < 0.6 else draw.randrange(13) for t in truth]
    values = metrics.compute(["accuracy", "macro_f1", "matthews"], guesses, truth)
    assert values["accuracy"] == pytest.approx(sklearn.accuracy_score(truth, guesses), abs=1e-12)
    assert values["macro_f1"] == pytest.approx(sklearn.f1_score(truth, guesses, average="macro"), abs=1e-12)
    assert values["matthews"] == pytest.approx(sklearn.matthews_corrcoef(truth, guesses), abs=1e-12)


SAMPLES = {
    "classes": ([0, 1], [0, 1]),
    "sets": ([[0], [0, 1]], [[0], [1]]),
    "values": ([0.5, 1.0], [0.25, 2.0]),
    "answers": (["a b", "c"], [["a b", "b"], ["d"]]),
}


@pytest.mark.parametrize(("room", "name"), [(r, n) for r in metrics.ROOMS for n in metrics.names(r)])
def test_every_metric_of_a_folder_gives_a_value_under_its_own_name(room, name):
    assert list(metrics.compute(name, *SAMPLES[room], room)) == [name]
    assert metrics.goal(name) in ("max", "min")
    if metrics.is_mean(name):
        parts = metrics.per_example(name, *SAMPLES[room], room)
        assert sum(parts) / 2 == pytest.approx(metrics.compute(name, *SAMPLES[room], room)[name], abs=1e-12)


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(UserError, match=r"no metric 'acuracy'. Did you mean 'accuracy'\?"):
        metrics.compute("acuracy", [0], [0])


def test_nothing_heavy_is_imported_before_a_metric_is_asked_for():
    code = "import sys, experiments.metrics; print({'torch', 'evaluate', 'datasets'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_metrics_need_neither_a_network_nor_a_home_that_can_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()  # no folder can be made below a file, whoever tries
    code = "from experiments import metrics; print(metrics.compute('accuracy', [0, 1], [0, 0]))"
    home = {"HOME": str(blocked), "HF_HOME": str(blocked / "hf"), "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **home}
    )
    assert done.stdout.strip() == "{'accuracy': 0.5}", done.stderr


def test_a_process_that_is_killed_leaves_no_copy_of_a_metric_behind(tmp_path):
    code = (
        "import os; from experiments import metrics\n"
        "for name in metrics.names('classes'): metrics.compute(name, [0, 1], [0, 0])\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == -9 and list(tmp_path.iterdir()) == []
