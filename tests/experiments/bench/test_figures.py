"""Ratios, tables and the arithmetic floor, against numbers worked out by hand."""

import csv

import pytest

from experiments.bench import arithmetic, latency, memory, step, table
from experiments.bench.table import Figure
from experiments.bench.turns import Spread, added_ratio, in_turn, ratio
from experiments.console.commands import run


def test_a_ratio_is_taken_round_by_round():
    assert ratio([2, 6, 12], [1, 2, 3]) == Spread(3, 2, 4)
    assert Spread.of([4, 1, 3, 2, 5]) == Spread(3, 1.5, 4.5)


def test_what_a_layer_adds_is_told_from_the_floor():
    found = added_ratio([14] * 6, [20] * 6, floor=[10] * 6)
    assert found == Spread(0.4, 0.4, 0.4)
    found = added_ratio([14, 12, 15] * 2, [20] * 6, floor=[10] * 6)
    assert (found.median, found.low, found.high) == (0.4, 0.2, 0.5)


def test_nobody_always_follows_the_same():
    order = []
    names = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = in_turn(names, rounds=4, warmup=2)
    assert {name: len(ms) for name, ms in times.items()} == {"a": 4, "b": 4, "c": 4}
    assert ["".join(order[i : i + 3]) for i in range(0, 18, 3)] == ["abc", "bca", "cab"] * 2


FIGURES = [
    Figure(
        "lora", "qv", "step / PEFT's", "ms", Spread(9, 8, 10), Spread.exact(10), Spread(0.9, 0.8, 1), 0.95
    ),
    Figure("dora", "qv", "peak / PEFT's", "MB", Spread.exact(3), Spread.exact(2), Spread.exact(1.5), 1.0),
    Figure("dora", "qv", "step / floor", "ms", Spread(9, 8, 10), Spread.exact(10), Spread(0.9, 0.8, 1)),
]


def test_a_table_has_target_and_verdict_beside_each_figure_and_names_the_machine(capsys, tmp_path):
    table.show(FIGURES, title="What", path=tmp_path / "t.csv")
    first, _, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("What, on ") and "thread" in first
    assert lines[0].endswith("<= 0.95  met") and "0.900 (0.800 to 1.000)" in lines[0]
    assert lines[1].endswith("<= 1     MISSED") and "1.500  " in lines[1]
    assert lines[2].endswith("0.900 (0.800 to 1.000)")
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [row["ratio"] for row in rows] == ["0.9", "1.5", "0.9"]
    assert (rows[0]["ours_low"], rows[0]["ratio_high"], rows[0]["target"], rows[2]["target"]) == (
        "8", "1", "0.95", "",
    )  # fmt: skip
    assert {row["workload"] for row in rows} == {"What"} and all(row["machine"] for row in rows)


def test_the_operations_of_a_step_are_those_of_the_formulas(work):
    q, kv, mlp, T, r = (24, 24), (24, 12), [(24, 40), (24, 40), (40, 24)], 28, 3
    maps = [q, kv, kv, (24, 24), *mlp] * 2
    N = sum(a * b for a, b in maps)
    frozen = 4 * N * T + 6 * 2 * T * 7 * 24
    adapted = [q, kv] * 2
    P = r * sum(a + b for a, b in adapted)
    found = {v: arithmetic.operations(work, v, r=r, targets="qv") for v in ("lora", "dora", "adalora")}
    assert found["lora"] == frozen + 6 * P * T
    products, outputs = sum(a * b for a, b in adapted), sum(b for _, b in adapted)
    assert found["dora"] == found["lora"] + 2 * r * products + 4 * T * outputs
    edges, first = sum(a + b for a, b in adapted), 5  # it begins at rank ceil(1.5 r)
    assert found["adalora"] == frozen + 6 * first * edges * T + 2 * first**2 * edges


def test_a_step_takes_at_least_the_longer_of_arithmetic_and_reading(work):
    at = {"variant": "lora", "r": 3, "targets": "qv"}
    operations = arithmetic.operations(work, **at)
    assert arithmetic.least_ms(work, **at, rate=1e6, bandwidth=1e15) == pytest.approx(operations / 1e3)
    weights = 2 * (24 * 24 * 2 + 24 * 12 * 2 + 24 * 40 * 3)
    assert arithmetic.least_ms(work, **at, rate=1e15, bandwidth=1e6) == pytest.approx(2 * 4 * weights / 1e3)


@pytest.mark.parametrize("targets", ["qv", "all"])
def test_a_step_is_measured_for_every_variant_with_its_targets(work, targets):
    pytest.importorskip("peft")
    variants = ("lora", "dora", "adalora", "qlora")
    figures = step.measure(work, variants, r=3, targets=targets, rounds=3)
    by_name = {(f.variant, f.what): f for f in figures}
    assert {v for v, what in by_name if what == "step / PEFT's"} == set(variants)
    limits = {v: by_name[v, "step / PEFT's"].target for v in variants}
    assert limits == ({"lora": 1.02, "dora": 1.02, "adalora": 1.02, "qlora": 1.0} if targets == "qv" else
                      {"lora": None, "dora": None, "adalora": None, "qlora": 1.0})  # fmt: skip
    added = {v: by_name[v, "added / PEFT's"].target for v in variants}
    every = {"lora": 0.7, "dora": 0.5, "adalora": 0.6, "qlora": None}
    assert added == (every if targets == "all" else dict.fromkeys(variants))
    assert by_name["dora", "step / our lora's"].target == 1.10
    assert all(f.ours.low > 0 and f.against.low > 0 for f in figures)


def test_latency_sets_merged_models_against_the_base(work):
    pytest.importorskip("peft")
    figures = latency.measure(work, r=3, targets="all", rounds=3)
    assert [(f.variant, f.what) for f in figures] == [
        (v, what)
        for v in ("lora", "dora")
        for what in ("merged / base's", "unmerged / base's", "unmerged / PEFT's")
    ]


def test_memory_is_measured_for_every_variant(work):
    pytest.importorskip("peft")
    figures = {(f.variant, f.what): f for f in memory.measure(work, ("lora", "dora"), r=3, targets="all")}
    assert figures["lora", "peak / PEFT's"].target == 1.0
    assert figures["dora", "peak / our lora's"].target == 1.05
    assert figures["dora", "step alone / PEFT's"].ratio.median < 1  # PEFT forms W + BA of every layer
    assert all(f.ours.median > 0 for f in figures.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["step", "--targets", "qv,alll"], "'alll' is none of qv, qkv, attention, mlp, all"),
        (["memory", "--variants", "rslora"], "'rslora' is none of lora, dora, adalora, qlora"),
        (["latency", "--r", "0"], "'0' is no whole number of at least 1"),
        (["memory", "--rounds", "3"], "unrecognized arguments"),
    ],
)
def test_mistakes_are_told(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        run("experiments.bench", "About.", words)
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_latency_of_what_stands_beside_the_weights_is_measured_beside_merged_lora(work):
    figures = latency.measure_inserted(work, r=3, targets="qv", rounds=3)
    merging = ["lora merged", "ia3 merged"]
    assert sorted(f.variant for f in figures) == sorted(["lora", *latency.INSERTED, *merging])
    assert len({f.against for f in figures}) == 1 and all(f.ratio.low > 0 for f in figures)
