"""The papers' figures: drawn where the records hold what they need, with the numbers of the arrays."""

import hashlib
import json

import numpy as np
import pytest

from analysis import cells as cells_module
from analysis.arrays import Arrays
from analysis.figures import paper_figures
from analysis.histories import Histories
from analysis.load import read

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
    found = paper_figures(study, cells_module.cells(study), Histories(study), Arrays(study))
    return {figure.name: figure for figure in found}, study


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
    figures = paper_figures(study, cells_module.cells(study), Histories(study), baseline="dora")
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
    assert "4.480 bits per weight in fp4," in finding and "gives 4.500" in finding and "nf4" not in finding


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
