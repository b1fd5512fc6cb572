"""What keeps figures readable: labels apart, marks of equal cost side by side, legends of what is drawn."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.figures import curves, overview, overview_figures, paper_figures
from analysis.runs import cells, load


def drawn(w):
    study = load.read(w.root)
    return {figure.name: figure for figure in overview_figures(study, cells.cells(study))}


def test_names_are_kept_apart_in_their_order_and_moved_as_little_as_possible():
    found = overview.apart(np.array([5.0, 0.0, 5.2, 20.0]), 2.0)
    assert found == pytest.approx([4.1, 0.0, 6.1, 20.0])  # the pair around its middle, the others untouched
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 10, 15)
    moved = overview.apart(values, 1.0)
    assert (np.diff(np.sort(moved)) >= 1 - 1e-9).all()
    assert (np.argsort(moved) == np.argsort(values)).all()


def test_marks_of_one_cost_stand_side_by_side_and_others_stay():
    x = np.array([10.0, 300.0, 10.0, 10.4, 100.0])
    found = overview.beside(x)
    assert len(set(np.round(found, 6))) == 5 and found[1] == 300 and found[4] == 100
    assert np.diff(np.sort(found[[0, 2, 3]])).min() >= 8.9
    assert found[[0, 2, 3]].mean() == pytest.approx(x[[0, 2, 3]].mean())


def test_texts_touch_neither_marks_nor_each_other():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 300, 60), rng.uniform(0, 200, 60)
    texts = [str(2 ** (i % 7)) for i in range(60)]
    sides = overview.labelled(x, y, texts)
    boxes = []
    for a, b, text, side in zip(x, y, texts, sides, strict=True):
        if side:
            dx, dy, align = overview._SIDES[side]
            width = 6.2 * len(text)
            left = a + dx - (width if align == "right" else 0)
            boxes.append((left, b - dy - 5.5, left + width, b - dy + 5.5))
    touch = lambda p, q: p[0] < q[2] and q[0] < p[2] and p[1] < q[3] and q[1] < p[3]  # noqa: E731
    assert not any(touch(p, q) for i, p in enumerate(boxes) for q in boxes[:i])
    assert len(boxes) > 25  # most have room


def test_equal_parameter_counts_do_not_overprint(writer):
    w = writer()
    w.grid(("lora", "rslora", "loraplus"), (8,), range(3))
    spec = drawn(w)["metric_by_trainable_parameters"].spec
    (rows,) = [rows for rows in spec["datasets"].values() if "cost" in rows[0]]
    assert len({row["cost"] for row in rows}) == 1 and len({row["at"] for row in rows}) == 3


def legends(spec):
    """The names in every legend of a definition."""
    found = []

    def walk(node):
        if isinstance(node, dict):
            if isinstance(node.get("legend"), dict) and "values" in node["legend"]:
                found.append(tuple(node["legend"]["values"]))
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(spec)
    return set(found)


def test_a_legend_names_only_what_has_marks(writer):
    w = writer()
    w.grid(("lora", "dora"), (8,), range(3), dataset="a")
    w.grid(("lora", "rslora"), (8,), range(3), dataset="b")
    for name, figure in drawn(w).items():
        names = {"lora", "dora" if "-a_minilm" in name else "rslora"}
        assert [set(values) for values in legends(figure.spec)] in ([names], []), name


def test_of_24_series_the_best_and_the_first_are_in_colour(writer):
    w = writer(n_examples=60)
    for i in range(24):
        w.run(w.spec("lora" if i == 0 else f"v{i:02}", 8, 0), 0.5 + 0.01 * i)
    figure = drawn(w)["metric_by_rank"]
    (names,) = legends(figure.spec)
    assert "lora" in names and len(names) == overview.MOST_SERIES - 1
    domain = figure.spec["layer"][-1]["encoding"]["color"]["scale"]["domain"]
    assert len(domain) == 24 and set(domain[: len(names)]) == set(names)  # so that no two share a colour
    assert "In grey: 15 more series." in figure.caption


def test_of_many_series_each_has_one_colour_in_all_figures_of_a_report(writer):
    w = writer(n_examples=60)
    for i in range(12):
        for r in (4, 8):
            w.run(w.spec("lora" if i == 0 else f"v{i:02}", r, 0), 0.5 + 0.01 * i)
    study = load.read(w.root)
    papers = {figure.name: figure for figure in paper_figures(study, cells.cells(study))}
    domains = [
        figure.spec["layer"][-1]["encoding"]["color"]["scale"]["domain"]
        for figure in (drawn(w)["metric_by_rank"], papers["rank_by_variant"])
    ]
    assert domains[0] == domains[1] != sorted(domains[1])  # the best first, everywhere


def test_the_majority_class_is_said_and_drawn(writer):
    w = writer()
    for record in w.grid(("lora", "dora"), (8,), (0,)):
        path = w.root / record["run_id"] / "predictions.parquet"
        table = pq.read_table(path)
        labels = ["a"] * 130 + ["b"] * 70  # of 200
        pq.write_table(table.set_column(table.column_names.index("label"), "label", [labels]), path)
    figure = drawn(w)["metric_by_rank"]
    assert "The most frequent class alone scores 0.650." in figure.caption
    assert ("majority class" in json.dumps(figure.spec)) == (0.65 > 0.5)
    pq.write_table(pq.read_table(path).drop(["id"]), path)  # damaged: no reason to end without a report
    assert load.read(w.root).predictions.blind(record["run_id"]) is None


@pytest.mark.parametrize(
    ("column", "metric", "expected", "name"),
    [
        ("likelihood", "accuracy", (1 / 4 + 1 / 2) / 2, "chance"),
        ("reference", "exact_match", (0.5 + 0.8) / 2, "most frequent answer"),
    ],
)
def test_answers_without_skill_over_two_test_sets(writer, column, metric, expected, name):
    """Of 150 and 50 examples, each set counting the same."""
    w = writer()
    ids = [f"a/{i}" for i in range(150)] + [f"b/{i}" for i in range(50)]
    options = [[-1.0] * 4] * 150 + [[-1.0] * 2] * 50
    answers = [["yes"]] * 75 + [["no"]] * 75 + [["no"]] * 40 + [["yes"]] * 10
    for record in w.grid(("lora", "dora"), (8,), (0,)):
        folder = w.root / record["run_id"]
        score = record["metrics"].pop("test/accuracy")
        columns = {"id": ids, "label": [f"text {i}" for i in ids], "score": [score] * 200}
        columns[column] = options if column == "likelihood" else answers
        pq.write_table(pa.table(columns), folder / "predictions.parquet")
        record["metrics"] |= {f"test/{metric}": score, f"test/a/{metric}": score, f"test/b/{metric}": score}
        record["primary"]["metric"] = metric
        (folder / "record.json").write_text(json.dumps(record))
    study = load.read(w.root)
    blind = study.predictions.blind(record["run_id"])
    assert blind.score == pytest.approx(expected) and (blind.name, blind.metric) == (name, metric)
    assert f"scores {expected:.3f}." in drawn(w)["metric_by_rank"].caption


def test_smoothing_keeps_a_line_and_the_ends():
    steps = np.arange(1, 61.0)
    line = np.column_stack([steps, 3 - 0.01 * steps, 2.9 - 0.01 * steps, 3.1 - 0.01 * steps, np.ones(60)])
    found = curves.smooth(line)
    assert found[5:-5] == pytest.approx(line[5:-5])  # the average of a line is the line
    assert np.abs(found - line).max() < 0.03
    noisy = line.copy()
    noisy[:, 1] += np.random.default_rng(0).normal(0, 0.1, 60)
    assert np.std(curves.smooth(noisy)[:, 1] - line[:, 1]) < 0.06


def test_marks_are_placed_on_axes_that_show_the_bars_as_well():
    drawn = pd.DataFrame({"mean": [0.5, 0.53], "low": [0.0, np.nan], "high": [1.0, np.nan]})
    assert overview._pixels(drawn["mean"], drawn, False, 300) == pytest.approx([150, 159])
    costs = pd.DataFrame({"cost": [20.0, 50.0, 110.0], "low": [10.0, 40.0, 100.0]})
    for log in (False, True):
        x = overview._pixels(costs["cost"], costs, log, 300)
        assert overview._costs(x, costs, log, 300) == pytest.approx([20, 50, 110])
        assert 0 < x[0] < x[2] == pytest.approx(300)
