"""What adaptation brings back on a 4-bit base: the paper's figure against shares worked out by hand."""

import altair as alt
import pytest

from analysis.figures import paper_figures
from analysis.runs import cells as cells_module
from analysis.runs.load import read

DENSE = [("probe", None, "fp32", 0.52), ("qlora", 8, "fp32", 0.9)]


@pytest.fixture
def figure_of(writer):
    """The figure of a study of rows (variant, r, storage, accuracy[, more of the spec]), or None."""

    def drawn(*rows, seeds=3, noise=lambda seed: 0.0, goal="max"):
        w = writer()
        for variant, r, storage, accuracy, *more in rows:
            for seed in range(seeds):
                value = accuracy + (noise(seed) if r and storage != "fp32" else 0)
                spec = w.spec(variant, r, seed, variant_axes__storage=storage, **(more[0] if more else {}))
                metrics = {"validation/accuracy": value, "test/accuracy": value}
                w.run(spec, metrics=metrics, predictions=False, primary={"metric": "accuracy", "goal": goal})
        study = read(w.root)
        found = list(paper_figures(study, cells_module.cells(study)))
        [figure] = [f for f in found if f.name == "recovery"] or [None]
        if figure:
            alt.Chart.from_dict(figure.spec)
        return figure

    return drawn


def values(figure):
    """What is drawn: (row, kind) -> value."""
    return {(r["row"], r["what"]): r["value"] for rows in figure.spec["datasets"].values() for r in rows}


def test_it_is_the_share_of_the_gain_over_the_head_alone_on_the_same_base(figure_of):
    four = [("probe", None, "nf4", 0.5), ("qlora", 8, "nf4", 0.8)]
    four += [("probe", None, "int4", 0.4), ("qlora", 8, "int4", 0.9)]
    figure = figure_of(*DENSE, *four, seeds=2)
    assert figure.finding == (  # 0.3/0.4 and 0.5/0.5
        "Of the gain of qlora, storage=fp32 · r 8 over the head alone, adapters recover 100% on int4 + DQ, "
        "75% on nf4 + DQ (2 runs each, so no verdict)."
    )
    drawn = values(figure)
    assert len(drawn) == 8
    assert drawn["qlora, storage=nf4 · r 8", "without adapters, 4-bit base"] == pytest.approx(0.5)
    assert drawn["qlora, storage=nf4 · r 8", "without adapters, dense base"] == pytest.approx(0.52)
    assert drawn["qlora, storage=int4 · r 8", "adapters, 4-bit base"] == pytest.approx(0.9)
    assert drawn["qlora, storage=int4 · r 8", "adapters, dense base"] == pytest.approx(0.9)


def test_with_and_without_double_quantisation_are_measured_by_their_own_head(figure_of):
    plain = {"variant_options": {"double_quant": False}}
    four = [("probe", None, "nf4", 0.5), ("qlora", 8, "nf4", 0.8)]
    four += [("probe", None, "nf4", 0.7, plain), ("qlora", 8, "nf4", 0.8, plain)]
    finding = figure_of(*DENSE, *four, seeds=1).finding
    assert "50% on nf4" in finding and "75% on nf4 + DQ" in finding


def test_from_three_seeds_on_the_distance_has_an_interval(figure_of):
    """-0.1 on average, plus or minus 0.01: t(2, .975) = 4.303 times 0.01 / sqrt 3."""
    four = [("probe", None, "nf4", 0.5), ("qlora", 8, "nf4", 0.8)]
    finding = figure_of(*DENSE, *four, noise=lambda seed: 0.01 * (seed - 1)).finding
    assert "75% on nf4 + DQ (-0.1000 from the dense base, 95% -0.1248 to -0.0752)" in finding
    assert finding.endswith("(3 runs each).")


def test_without_a_head_alone_the_model_as_it_was_is_the_floor(figure_of):
    rows = [
        ("qlora", 8, "fp32", 1.0),
        ("qlora", 8, "nf4", 1.25),
        ("zero", None, "nf4", 2.0, {"method": "zero"}),
    ]
    figure = figure_of(*rows, goal="min")
    assert "over no training, adapters recover 75% on nf4 + DQ" in figure.finding
    assert len(values(figure)) == 3


def test_where_a_dense_base_gains_nothing_there_is_no_share(figure_of):
    four = [("probe", None, "nf4", 0.95), ("qlora", 8, "nf4", 0.8)]
    finding = figure_of(*DENSE, *four).finding
    assert "qlora, storage=fp32 · r 8 gains nothing over the head alone on nf4 + DQ" in finding
    assert "%" not in finding


@pytest.mark.parametrize(
    "rows",
    [
        [("qlora", 8, "fp32", 0.9), ("qlora", 8, "nf4", 0.8)],  # no head alone
        [
            ("probe", None, "fp32", 0.5),
            ("qlora", 8, "fp32", 0.9),
            ("qlora", 8, "nf4", 0.8),
        ],  # on another base
        [("probe", None, "nf4", 0.5), ("qlora", 8, "nf4", 0.8), ("qlora", 4, "fp32", 0.9)],  # another rank
    ],
)
def test_what_cannot_be_measured_is_not_drawn(rows, figure_of):
    assert figure_of(*rows) is None
