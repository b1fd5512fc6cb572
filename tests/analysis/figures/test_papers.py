"""The papers' figures: drawn where the records hold what they need, with the numbers of the arrays."""

import hashlib
import json
import re

import altair as alt
import numpy as np
import pytest

from analysis.figures import paper_figures
from analysis.runs import cells as cells_module
from analysis.runs.load import read

NAMES = [f"encoder.layer.{i}.attention.self.{kind}" for i in range(3) for kind in ("query", "value")]


@pytest.fixture
def leave(writer):
    """`leave(study, record, arrays)` writes signatures.npz into a run's folder, with its checksum."""

    def write(w, record, **arrays):
        path = w.root / record["run_id"] / "signatures.npz"
        with open(path, "wb") as file:
            np.savez(file, **{name.replace("__", "/"): value for name, value in arrays.items()})
        record["files"] = {"signatures.npz": hashlib.sha256(path.read_bytes()).hexdigest()}
        (path.parent / "record.json").write_text(json.dumps(record))
        return path

    return write


def drawn(w):
    """The papers' figures of a study, by name."""
    study = read(w.root)
    found = list(paper_figures(study, cells_module.cells(study)))
    for figure in found:
        alt.Chart.from_dict(figure.spec)  # raises where the definition breaks Vega-Lite's schema
    return {figure.name: figure for figure in found}, study


def data(figure):
    """All rows that a figure draws."""
    return [row for rows in figure.spec["datasets"].values() for row in rows]


def test_a_study_without_arrays_draws_none_that_need_them(writer):
    w = writer()
    w.grid(variants=("lora",), ranks=(8,))
    assert drawn(w)[0] == {}


def test_the_exponent_of_the_gradient_is_that_of_the_arrays(writer, leave):
    w = writer()
    for variant, power in (("lora", -0.5), ("rslora", 0.0)):
        for r in (4, 16, 64):
            record = w.run(w.spec(variant, r, 0))
            leave(w, record, gradient__steps=np.array([1]), gradient__out=np.array([3.0 * r**power]))
    figure = drawn(w)[0]["gradient_and_loss_by_rank"]
    assert "for lora like r^-0.50" in figure.finding and "-0.5 predicted" in figure.finding
    assert "for rslora like r^0.00" in figure.finding or "for rslora like r^-0.00" in figure.finding


def test_subspaces_of_two_seeds_are_compared_with_chance(writer, leave):
    w, rng = writer(), np.random.default_rng(0)
    shared = np.linalg.qr(rng.standard_normal((40, 4)))[0]
    for seed in (0, 1):
        record = w.run(w.spec("lora", 4, seed))
        leave(w, record, vectors__names=np.array(NAMES[:1]), vectors__0__change=shared.astype(np.float16))
    finding = drawn(w)[0]["subspace_similarity"].finding
    assert "eeds 0 and 1 at r 4 share 1.00 of their first direction (chance 0.025" in finding


def test_the_amplification_is_the_ratio_of_the_norms(writer, leave):
    w = writer()
    record = w.run(w.spec("lora", 4, 0))
    names, one = np.array(NAMES), np.ones(len(NAMES))
    leave(
        w,
        record,
        change__names=names,
        change__norm=6 * one,
        change__projected=0.3 * one,
        change__random=12 * one,
    )
    finding = drawn(w)[0]["amplification"].finding
    assert "by 20 (median of 6 matrices" in finding and "0.5 for random" in finding


def test_the_correlation_of_magnitude_and_direction_is_over_layers_and_checkpoints(writer, leave):
    w = writer()
    D = np.outer([1, 2], np.arange(1.0, 7)) / 100
    for variant, sign in (("lora", 1), ("dora", -1)):
        record = w.run(w.spec(variant, 4, 0))
        moved = {"moved__magnitude": 1 + sign * D, "moved__direction": D}
        leave(w, record, moved__steps=np.array([5, 10]), moved__names=np.array(NAMES), **moved)
    finding = drawn(w)[0]["magnitude_and_direction"].finding
    assert "lora · r 4 +1.00" in finding and "dora · r 4 -1.00" in finding and "6 matrices" in finding


def test_final_ranks_and_their_agreement_across_budgets_come_from_the_records(writer):
    w = writer()
    for r in (4, 8):
        pattern = {name: (i + 1) * r // 4 for i, name in enumerate(NAMES)}
        w.run(w.spec("adalora", r, 0), adapter={"rank_pattern": pattern})
    finding = drawn(w)[0]["final_ranks"].finding
    assert "adalora · r 4 ends between 1 and 6" in finding and "correlate with +1.00" in finding


def test_the_map_over_two_rates_marks_the_best_cell(writer):
    w = writer()
    value = {(0.001, 1): 0.5, (0.001, 4): 0.7, (0.004, 1): 0.6, (0.004, 4): 0.4}
    for (lr, ratio), accuracy in value.items():
        spec = w.spec(
            "loraplus", 8, 0, lr=lr, variant_axes__grouping="lora_plus", variant_options__lr_ratio=ratio
        )
        w.run(
            spec,
            accuracy,
            metrics={"validation/accuracy": accuracy, "test/accuracy": accuracy},
            predictions=False,
        )
    finding = drawn(w)[0]["two_rates_r8_qv"].finding
    assert "lr_A = 0.001, lr_B = 0.004, 0.100 better than the best cell of plain LoRA (lr = 0.004)" in finding
    assert "no verdict" in finding


def test_a_slope_over_doublings_of_the_rank_is_that_of_the_paired_differences(writer):
    w = writer()
    for seed in range(3):
        for r in (4, 8, 16):
            for variant, gain in (("lora", 0.0), ("dora", 0.02 * np.log2(r / 4))):
                accuracy = 0.6 + 0.01 * seed + gain
                metrics = {"validation/accuracy": accuracy, "test/accuracy": accuracy}
                w.run(w.spec(variant, r, seed), metrics=metrics, predictions=False)
    finding = drawn(w)[0]["rank_by_variant"].finding
    assert "dora by +0.0200 (95% 0.0200 to 0.0200, 3 seeds)" in finding
    study = read(w.root)
    figures = list(paper_figures(study, cells_module.cells(study), baseline="dora"))
    (other,) = [figure.finding for figure in figures if figure.name == "rank_by_variant"]
    assert "difference from dora" in other and "lora by -0.0200" in other


def test_bits_are_named_by_the_storage_that_the_run_used(writer, leave):
    w = writer()
    record = w.run(w.spec("qlora", 4, 0, variant_axes__storage="fp4", variant_options__double_quant=False))
    sizes = {
        "storage__codes": np.array(50),
        "storage__scales": np.array(6),
        "storage__weights": np.array(100),
    }
    leave(w, record, **sizes)
    finding = drawn(w)[0]["bits_per_weight"].finding
    assert finding.endswith("take 4.480 bits per weight in fp4 (by the formula 4.500).")


def test_targets_at_an_equal_budget_are_compared(writer):
    w = writer()
    for targets, r, accuracy in (("q", 8, 0.6), ("qv", 4, 0.7), ("all", 4, 0.9)):
        metrics = {"validation/accuracy": accuracy, "test/accuracy": accuracy}
        size = 50_000 if targets != "all" else 150_000
        record = w.run(w.spec("lora", r, 0, targets=targets), metrics=metrics, predictions=False)
        record["cost"]["trainable_parameters"] = size
        (w.root / record["run_id"] / "record.json").write_text(json.dumps(record))
    [figure] = [f for name, f in drawn(w)[0].items() if name.startswith("matrices_at")]
    assert "qv at r 4 has the best test accuracy, 0.700, 0.100 from q at r 8" in figure.finding
    own = [layer for layer in figure.spec["spec"]["layer"] if "data" in layer]
    assert "facet" in figure.spec and own == []  # data of a layer would stand in every panel


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "differs from its checksum"),
        (lambda path: path.write_bytes(b""), "differs from its checksum"),
    ],
)
def test_arrays_that_changed_after_the_run_are_named_and_left_out(writer, leave, spoil, why):
    w = writer()
    record = w.run(w.spec("lora", 4, 0))
    spoil(leave(w, record, change__norm=np.ones(2)))
    figures, study = drawn(w)
    assert figures == {}
    assert [(p.run, why in p.what) for p in study.problems] == [(record["run_id"], True)]


@pytest.mark.parametrize("content", [b"no archive", None], ids=["garbage", "nan"])
def test_arrays_that_cannot_be_used_are_named_and_left_out(writer, leave, content):
    w = writer()
    record = w.run(w.spec("lora", 4, 0))
    path = leave(w, record, change__norm=np.array([np.nan]))
    record["files"] = {}
    (path.parent / "record.json").write_text(json.dumps(record))
    if content:
        path.write_bytes(content)
    figures, study = drawn(w)
    assert figures == {} and len(study.problems) == 1


def test_the_bits_of_a_weight_are_those_of_the_stored_tensors(writer, leave):
    w = writer()
    weights = 64 * 1000
    for kind, double, scales in (
        ("nf4", True, 1000 + 16),
        ("int4", True, 1000 + 16),
        ("nf4", False, 4000),
    ):
        record = w.run(
            w.spec("qlora", 8, 0, variant_axes__storage=kind, variant_options__double_quant=double)
        )
        sizes = {"codes": weights / 2, "scales": scales, "weights": weights}
        leave(w, record, **{f"storage__{name}": np.array(size) for name, size in sizes.items()})
    figure = drawn(w)[0]["bits_per_weight"]
    assert "4.127 bits per weight in int4 + DQ, nf4 + DQ (by the formula 4.127)" in figure.finding
    assert "4.500 bits per weight in nf4 (by the formula 4.500)" in figure.finding
    bits = {(row["storage"], row["component"]): row["bits"] for row in data(figure)}
    assert bits["int4, nf4", "absmax"] == 0.5 and bits["int4, nf4 + DQ", "absmax"] == 0.125


def test_the_memory_of_a_base_is_stacked_by_part(writer, leave):
    w = writer()
    for variant, storage, base in (("lora", "fp32", 90_000_000), ("qlora", "nf4", 30_000_000)):
        record = w.run(w.spec(variant, 8, 0, variant_axes__storage=storage), predictions=False)
        record["cost"] |= {"base_bytes": base, "trainable_parameters": 250_000, "peak_bytes": 150_000_000}
        arrays = {"codes": 9_000_000, "scales": 1_000_000, "weights": 18_000_000}
        arrays = arrays if storage == "nf4" else {}
        leave(w, record, **{f"storage__{name}": np.array(size) for name, size in arrays.items()})
    figure = drawn(w)[0]["memory_by_part"]
    found = {row["part"]: row["mb"] for row in data(figure) if row["row"] == "qlora · r 8"}
    assert found == {
        "base, quantised": 10,
        "base, dense": 20,
        "adapters and head": 1,
        "gradients": 1,
        "optimiser": 2,
        "all else at the peak": 116,
    }
    assert "takes 30 MB in qlora · r 8 and 90 MB in lora · r 8, 33%" in figure.finding


def test_a_peak_that_would_drown_the_parts_is_told_not_drawn(writer, leave):
    w = writer()
    record = w.run(w.spec("qlora", 8, 0, variant_axes__storage="nf4"), predictions=False)
    record["cost"] |= {"base_bytes": 30_000_000, "trainable_parameters": 250_000, "peak_bytes": 10**9}
    sizes = {"codes": 9_000_000, "scales": 1_000_000, "weights": 18_000_000}
    leave(w, record, **{f"storage__{name}": np.array(size) for name, size in sizes.items()})
    figure = drawn(w)[0]["memory_by_part"]
    assert sum(row["mb"] for row in data(figure)) == pytest.approx(34)
    assert "not drawn here: up to 966 MB" in figure.caption


def test_the_error_of_each_format_is_its_median_over_matrices(writer, leave):
    w = writer()
    record = w.run(w.spec("qlora", 8, 0, variant_axes__storage="nf4"))
    error = np.array([[0.011, 0.012, 0.016], [0.008, 0.009, 0.013]])
    formats = {"storage__formats": np.array(["int4", "nf4 double"]), "storage__names": np.array(NAMES[:3])}
    leave(w, record, storage__error=error, **formats)
    figure = drawn(w)[0]["quantisation_error"]
    assert "nf4 + DQ 0.009, int4 0.012 (3 matrices" in figure.finding


def test_the_effective_rank_of_equal_singular_values_is_their_number(writer, leave):
    w = writer()
    for r, sigma in ((4, np.ones((2, 4))), (16, np.eye(16)[:2])):
        leave(w, w.run(w.spec("lora", r, 0)), change__sigma=sigma, change__names=np.array(NAMES[:2]))
    figure = drawn(w)[0]["effective_rank"]
    assert "From 1.0 in lora at r 16 to 4.0 in lora at r 4 (medians of 2 and 2 matrices)" in figure.finding


@pytest.mark.parametrize(
    ("kept", "said"), [(43, "never more than 3 off the plan"), (40, "as planned at every step")]
)
def test_the_budget_of_adalora_is_compared_with_its_plan(writer, kept, said):
    """Step for step: one of 200 may be off the plan."""
    w = writer()
    pattern = {name: 2 for name in NAMES}
    record = w.run(w.spec("adalora", 4, 0), adapter={"rank_pattern": pattern})
    odd = {1: (72, 72, 0), 100: (40, kept, 1), 200: (24, 24, 7)}
    rows = [
        {"step": step, "loss": 1.0, "budget": planned, "budget_realised": realised, "reactivations": back}
        for step in range(1, 201)
        for planned, realised, back in [odd.get(step, (40, 40, 1))]
    ]
    history = w.root / record["run_id"] / "history.jsonl"
    history.write_text("".join(json.dumps(row) + "\n" for row in rows))
    finding = drawn(w)[0]["budget"].finding
    assert f"from 72 to 24 singular values ({said}), 7 pruned ones came back" in finding


def test_a_run_with_the_curve_of_half_the_steps_is_twice_as_fast(writer):
    w = writer()
    steps = np.arange(1, 201)
    for variant, pace in (("lora", 1), ("loraplus", 2)):
        faster = {"variant_axes__grouping": "lora_plus", "variant_options__lr_ratio": 16}
        record = w.run(w.spec(variant, 8, 0, **(faster if pace == 2 else {})))
        rows = [{"step": int(step), "loss": float(3 - 0.01 * pace * step)} for step in steps]
        history = w.root / record["run_id"] / "history.jsonl"
        history.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [figure] = [f for name, f in drawn(w)[0].items() if name.startswith("speed_up")]
    factor = float(re.search(r"a speed-up of ([\d.]+)", figure.finding)[1])
    assert factor == pytest.approx(2, rel=0.05)  # the running mean shortens at the ends
    assert "at rates that this study did not tune" in figure.finding


def test_many_budgets_share_one_figure_that_says_what_it_leaves_out(writer):
    w = writer()
    for r in range(1, 12):
        for targets, accuracy in (("q", 0.6 + 0.01 * (r > 8)), ("v", 0.605)):
            metrics = {"validation/accuracy": accuracy, "test/accuracy": accuracy}
            record = w.run(w.spec("lora", r, 0, targets=targets), metrics=metrics, predictions=False)
            record["cost"]["trainable_parameters"] = 10_000 * r
            (w.root / record["run_id"] / "record.json").write_text(json.dumps(record))
    figure = drawn(w)[0]["matrices_at_equal_parameters"]
    assert "v has the best test accuracy at 8 of 11 budgets, q at 3" in figure.finding
    assert "2 more budgets are not drawn" in figure.caption
    assert len({row["panel"] for row in data(figure)}) == 9
